"""Builder of reference tables, which scores only missing responses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from preftree.errors import ConfigError, TrainingError
from preftree.reference.filled import find_filled, note_filled
from preftree.reference.key import layout_digests, sequence_digest
from preftree.reference.store import ReferenceTable
from preftree.scoring.scorer import Scorer, evaluation_mode
from preftree.storage.lock import release_lock, take_lock
from preftree.tree.layout import Sharing, TokenSequence, grow_tree
from preftree.tree.pack import plan_step

_CHUNK_TOKENS = 2**18
"""Most tokens that are held in memory and packed together, unless 32 micro-batches or one response have more."""

_SECONDS_AT_RISK = 60.0
"""Longest computing time that a kill can lose; an interrupt loses none."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Counts of a build, or of its progress.

    Attributes:
      num_forwards: Micro-batches that the reference model scored.
      num_scored: Responses that were scored.
      num_cached: Responses that the table already held, including repetitions within the data.
      seconds: Time since the start.
    """

    num_forwards: int = 0
    num_scored: int = 0
    num_cached: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False, slots=True)
class _Group:
    """Sequences to lay out as one tree, and the number of their group in the data."""

    index: int
    sequences: tuple[TokenSequence, ...]
    digests: tuple[bytes, ...]

    def part(self, indices: Sequence[int]) -> _Group:
        return _Group(self.index, tuple(self.sequences[i] for i in indices), tuple(self.digests[i] for i in indices))


def build_reference(
    table: ReferenceTable,
    scorer: Scorer,
    groups: Iterable[Iterable[TokenSequence]],
    *,
    budget: int,
    data: str | None = None,
    name: Callable[[int], str] = "example {}".format,
    progress: Callable[[BuildReport], None] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> BuildReport:
    """Score every response that the table lacks, and store its token log-probs.

    Groups are read in chunks, and a larger group is split, so data of any size takes bounded memory. Each chunk
    is stored when it is done: after an interrupt the next build continues there. Two processes that build one table
    take turns, chunk by chunk, and score nothing twice. Dropout is off in every mode of the scorer.

    Args:
      table: Destination of the log-probs, opened with the key of this scorer.
      scorer: The reference model.
      groups: Responses to one prompt, group by group; a group is one tree, and groups that begin alike share theirs.
      budget: Most tokens of one forward.
      data: Digest of the groups; where the table is noted to hold these data, they are not read.
      name: Name of group i in errors: the origin of its example in the data.
      progress: Called after each forward with the counts so far.
      say: Called with a message when the build waits for another process.

    Raises:
      TrainingError: a log-prob is not finite; the rows are named.
      ConfigError: one response alone is larger than the budget.
      CacheError: the table cannot be written.
    """
    if data is not None and (known := find_filled(table, data)) is not None:
        return BuildReport(num_cached=known)
    start = time.monotonic()
    forwards = scored = cached = 0

    def report() -> BuildReport:
        return BuildReport(forwards, scored, cached, time.monotonic() - start)

    def count(responses: int) -> None:
        nonlocal forwards, scored
        forwards, scored = forwards + 1, scored + responses
        if progress is not None:
            progress(report())

    with torch.no_grad(), evaluation_mode(scorer):
        for chunk in _chunks(groups, max(_CHUNK_TOKENS, 32 * budget)):
            lacking = _lacking(table, chunk)
            if lacking:
                with _turn(table, say):
                    table.refresh()
                    lacking = _lacking(table, chunk)
                    _score(table, scorer, lacking, budget, name, count)
            cached += sum(len(group.digests) for group in chunk) - sum(len(group.digests) for group in lacking)
    if data is not None:
        note_filled(table, data, cached + scored)
    return report()


def _chunks(groups: Iterable[Iterable[TokenSequence]], tokens: int) -> Iterator[list[_Group]]:
    chunk: list[_Group] = []
    held = 0
    for index, group in enumerate(groups):
        for part, size in _cut(group, tokens):
            if chunk and held + size > tokens:
                yield chunk
                chunk, held = [], 0
            chunk.append(_Group(index, part, tuple(sequence_digest(sequence) for sequence in part)))
            held += size
    if chunk:
        yield chunk


def _cut(group: Iterable[TokenSequence], tokens: int) -> Iterator[tuple[tuple[TokenSequence, ...], int]]:
    """The sequences of a group in parts of at most `tokens`, or of one sequence, with the tokens of each part."""
    part: list[TokenSequence] = []
    held = 0
    for sequence in group:
        if part and held + len(sequence.ids) > tokens:
            yield tuple(part), held
            part, held = [], 0
        part.append(sequence)
        held += len(sequence.ids)
    if part:
        yield tuple(part), held


def _lacking(table: ReferenceTable, chunk: Sequence[_Group]) -> list[_Group]:
    """The groups without the sequences that the table holds, each sequence once."""
    digests = [digest for group in chunk for digest in group.digests]
    absent = {digest for digest, is_absent in zip(digests, table.missing_digests(digests), strict=True) if is_absent}
    lacking: list[_Group] = []
    for group in chunk:
        members = []
        for index, digest in enumerate(group.digests):
            if digest in absent:
                absent.remove(digest)
                members.append(index)
        if members:
            lacking.append(group.part(members))
    return lacking


def _score(
    table: ReferenceTable,
    scorer: Scorer,
    groups: Sequence[_Group],
    budget: int,
    name: Callable[[int], str],
    count: Callable[[int], None],
) -> None:
    """Score and store the groups; `count` is called after each forward with the number of responses it scored."""
    done: list[tuple[list[bytes], list[np.ndarray], np.ndarray]] = []  # one item a forward: Ctrl-C splits none

    def store() -> None:
        if done:
            digests, values, layouts = zip(*done, strict=True)
            table.add(list(chain(*digests)), list(chain(*values)), np.concatenate(layouts))

    stored = time.monotonic()
    try:
        parts = list(chain.from_iterable(_fitting(group, budget, scorer.sharing, name) for group in groups))
        numbers = [part.index for part in parts]
        (micros,) = plan_step([part.sequences for part in parts], numbers, budget=budget, sharing=scorer.sharing)
        # The largest first, so that a budget too large for memory fails at once.
        for micro in sorted(micros, key=lambda micro: -len(micro.batch.input_T)):
            chosen = [parts[index] for index in micro.examples]
            logps = scorer(micro.batch.to(scorer.device)).cpu().numpy()
            new = np.split(logps, micro.batch.count_R.numpy().cumsum()[:-1])
            _check_finite(chosen, new, name)
            digests = [digest for part in chosen for digest in part.digests]
            done.append((digests, new, layout_digests(micro.batch)))
            count(len(new))
            if time.monotonic() - stored > _SECONDS_AT_RISK:
                store()
                done, stored = [], time.monotonic()
    finally:  # also when a forward failed or the user pressed Ctrl-C
        store()


def _fitting(group: _Group, budget: int, sharing: Sharing, name: Callable[[int], str]) -> Iterator[_Group]:
    """The group where its tree fits the budget, else parts that repeat the prompt; rows are parts of their own."""

    def size_of(members: Sequence[int]) -> int:
        return len(grow_tree([group.sequences[index] for index in members], switch=sharing.switch))

    members: list[int] = []
    bound = 0  # of the tree of `members`; growing the tree again for every sequence would take quadratic time
    for index, sequence in enumerate(group.sequences):
        bound += len(sequence.ids)
        if bound > budget and sharing.prefixes:
            bound = size_of([*members, index])
        if bound > budget or not sharing.prefixes:
            if (alone := size_of([index])) > budget:
                raise _too_long(group, alone, budget, name)
            if members:
                yield group.part(members)
            members, bound = [], alone
        members.append(index)
    yield group.part(members)


def _too_long(group: _Group, size: int, budget: int, name: Callable[[int], str]) -> ConfigError:
    return ConfigError(
        f"{name(group.index)} has a response that takes {size} tokens with its prompt, but micro_batch_tokens is "
        f"{budget}; raise that, or lower max_length"
    )


def _check_finite(groups: Sequence[_Group], values: Sequence[np.ndarray], name: Callable[[int], str]) -> None:
    owners = [group.index for group in groups for _ in group.digests]
    rows = sorted({index for index, logps in zip(owners, values, strict=True) if not np.isfinite(logps).all()})
    if rows:
        named = ", ".join(name(index) for index in rows[:3]) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
        raise TrainingError(
            f"the reference model gives log-probs that are not finite for {named}; check its weights, or use another "
            "precision"
        )


@contextmanager
def _turn(table: ReferenceTable, say: Callable[[str], None]) -> Iterator[None]:
    """Exclude other builders of the table; a second one waits and then reads the finished entries."""
    path = table.folder / ".lock"
    lock = take_lock(path, wait=False, create=True)
    if lock is None:
        say(f"another process is filling reference cache {table.folder}; waiting for it")
        lock = take_lock(path, wait=True, create=True)
    assert lock is not None
    try:
        yield
    finally:
        release_lock(lock)

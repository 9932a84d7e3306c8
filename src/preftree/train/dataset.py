"""Examples of a run: tokenised training rows, in their order, and held-out rows."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from preftree.config.base import Pace, RunConfig
from preftree.config.read_with import require_read
from preftree.data.alike import groups_by_beginning
from preftree.data.order import hold_out, iterate_steps, order_groups, steps_per_epoch
from preftree.data.rows.columns import parse_columns
from preftree.data.store.example import count_tokens
from preftree.data.store.mismatched import MismatchedStore
from preftree.data.store.token_store import TokenStore
from preftree.data.store.view import StoreView
from preftree.data.tokens.budgets import Budgets
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import ConfigError, DataError
from preftree.losses.mean import repeats
from preftree.records import FIGURES
from preftree.runtime.paths import cache_root
from preftree.runtime.ranks import Ranks
from preftree.runtime.reduce import lead_first
from preftree.storage.code_digest import code_digest
from preftree.train.objective import Objective
from preftree.train.step.scores import sequences_of
from preftree.tree.layout import TokenSequence

log = logging.getLogger("preftree")

# One held-out part for every training seed, so that runs which differ in the seed alone can be compared on it.
SPLIT_SEED = 0


_SEQUENCE_CODE = (
    "preftree.data.store.example",
    "preftree.data.store.mismatched",
    "preftree.data.store.token_store",
    "preftree.data.store.view",
    "preftree.reference.key",
    "preftree.train.step.scores",
    "preftree.tree.layout",
)
"""Modules between the content of a store and the digests of its sequences."""


@dataclass(frozen=True, eq=False, slots=True)
class Subset:
    """Some examples of a store.

    Attributes:
      store: The tokenised examples.
      rows: Indices of these examples, in file order, [N].
    """

    store: TokenStore | StoreView
    rows: Int[np.ndarray, " N"]

    def digest(self) -> str:
        """Digest of all sequences of these examples, in hex: of store, rows, and the code that reads them."""
        total = hashlib.sha256(f"{self.store.digest}\0{code_digest(_SEQUENCE_CODE)}\0".encode())
        if isinstance(self.store, StoreView):
            total.update(self.store.changes + b"\0")
        total.update(np.ascontiguousarray(self.rows, "<i8").tobytes())
        return total.hexdigest()


@dataclass(frozen=True, eq=False, slots=True)
class DataSplit:
    """Training examples of a run, and held-out examples where there are any."""

    train: Subset
    held_out: Subset | None


def open_data(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, ranks: Ranks, objective: Objective | None = None
) -> DataSplit:
    """Tokenise the files of a run, or open the stores of an earlier run; rank 0 works, the others read the result.

    Args:
      config: The options.
      tokenizer: The policy's.
      ranks: The processes.
      objective: Objective on preferences; None for demonstrations.
    Raises:
      DataError: a file cannot be read, is of another kind, holds too many faults, or nothing that can be trained on.
      ConfigError: all turns are to be imitated where nothing is; rankings are to share a weight, and there are none.
    """

    shares = config.data.ranking_weight == "row"

    def read(path: str) -> tuple[TokenStore, Int[np.ndarray, " N"]]:
        store = lead_first(ranks, lambda: _tokenize(config, objective, path, tokenizer))
        of_pairs = objective is not None and objective.kind == "pair"
        if shares and (not of_pairs or (store.share_weights() < 2 and path == config.data.path)):
            raise ConfigError(
                f"data.ranking_weight=row is of rankings under a loss of pairs, and {path} gives "
                f"{'one pair a row' if of_pairs else 'no pairs here'}; leave it out"
            )
        return store, _usable(store, objective, path)

    def part(store: TokenStore, rows: Int[np.ndarray, " N"], name: str = "the training rows") -> Subset:
        mismatched = objective is not None and "mismatched" in objective.inputs
        return Subset(MismatchedStore(store, rows, config.max_length, name) if mismatched else store, rows)

    store, rows = read(config.data.path)
    if isinstance(config.eval_data, str):
        return DataSplit(part(store, rows), part(*read(config.eval_data), "the held-out rows"))
    if isinstance(config.eval_data, float):
        kept, out = hold_out(store.prompts[rows], config.eval_data, SPLIT_SEED)
        return DataSplit(part(store, rows[kept]), part(store, rows[out], "the held-out rows"))
    return DataSplit(part(store, rows), None)


def num_steps(pace: Pace, num_examples: int) -> int:
    """Optimiser steps of a run: its epochs, or max_steps, whichever ends first; one epoch where neither is set."""
    length = steps_per_epoch(num_examples, pace.batch_size)
    if pace.epochs is None and pace.max_steps is not None:
        return pace.max_steps
    total = length * (pace.epochs or 1)
    return total if pace.max_steps is None else min(total, pace.max_steps)


def steps_from(part: Subset, config: RunConfig, first: int, last: int) -> Iterator[Int[np.ndarray, " B"]]:
    """The rows of steps `first` to `last - 1`, the same from whichever step a run resumes."""
    groups = order_groups(part.store.prompts[part.rows], config.data.order, config.batch_size)
    if config.data.order == "prefix":
        beginnings = [part.store[int(row)].sequences[0].ids for row in part.rows]
        groups = groups_by_beginning(beginnings, groups, config.batch_size)
    steps = iterate_steps(
        first,
        last,
        num_examples=len(part.rows),
        batch_size=config.batch_size,
        seed=config.seed,
        groups=groups,
        shuffle=config.data.order != "file",
    )
    for indices in steps:
        yield part.rows[indices]


def probe_rows(part: Subset, most: int = 4, longest: int = 2048, beyond: int = 8192) -> list[int]:
    """A few rows of different lengths, the shortest among them, and one long one, for the gates at the start.

    The long one reaches beyond the windows of the model, where the data does; a lost window shows in no shorter row.

    Args:
      part: The examples to choose from.
      most: Number of rows.
      longest: Most tokens of a row, since a plain forward keeps every logit; the shortest row where all are longer.
      beyond: Most tokens of the long row; without one of more than `longest`, it is among the others.
    """
    by_size = part.rows[np.argsort(part.store.num_tokens[part.rows], kind="stable")]
    sizes = part.store.num_tokens[by_size]
    short = by_size[: max(1, int((sizes <= longest).sum()))]
    rows = short[np.unique(np.linspace(0, len(short) - 1, most).round().astype(int))].tolist()
    long = by_size[len(short) : int((sizes <= beyond).sum())]
    return [*rows, int(long[-1])] if len(long) else rows


class PromptGroups:
    """The responses to each prompt of a part, prompt after prompt, read lazily."""

    def __init__(self, part: Subset) -> None:
        """Group the rows; prompts come in the order of their first examples in the data."""
        self._part = part

    @cached_property
    def _rows(self) -> list[Int[np.ndarray, " _"]]:
        rows = self._part.rows
        _, first, group = np.unique(self._part.store.prompts[rows], return_index=True, return_inverse=True)
        order = np.argsort(first[group], kind="stable")
        cuts = np.flatnonzero(np.diff(first[group][order])) + 1
        return np.split(rows[order], cuts)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Iterator[TokenSequence]]:
        for rows in self._rows:
            yield (sequence for row in rows for sequence in sequences_of(self._part.store[int(row)]))

    def name(self, group: int) -> str:
        """Position of the first row of a group in the data."""
        return str(self._part.store.provenance(int(self._rows[group][0])))


def check_budget(part: Subset, shares_prefixes: bool, budget: int) -> None:
    """Stop before the start where an example alone is larger than a micro-batch.

    Raises:
      ConfigError: one is; it is named with its size.
    """
    store = part.store
    if shares_prefixes:
        sizes = store.num_tokens[part.rows].copy()
        if not isinstance(store, TokenStore):  # views have upper bounds only
            for index in np.flatnonzero(sizes > budget):
                sizes[index] = count_tokens(sequences_of(store[int(part.rows[index])]))[0]
    else:
        lengths = ([len(s.trimmed().ids) - 1 for s in sequences_of(store[int(row)])] for row in part.rows)
        sizes = np.array([len(each) * max(each) for each in lengths])  # rows are padded to the longest
    longest = int(sizes.argmax())
    if sizes[longest] > budget:
        where = store.provenance(int(part.rows[longest]))
        raise ConfigError(
            f"micro_batch_tokens must be at least {sizes[longest]} to hold {where}, got {budget}; "
            "raise it, or lower max_length"
        )


def _tokenize(
    config: RunConfig, objective: Objective | None, path: str, tokenizer: PreTrainedTokenizerBase
) -> TokenStore:
    if config.data.turns == "all" and objective is not None:
        raise ConfigError(
            f"data.turns=all imitates every assistant turn, and {config.recipe} compares or judges whole responses; "
            "leave it out"
        )
    store, report = tokenize_file(
        path,
        tokenizer,
        kind="demonstration" if objective is None else objective.kind,
        cache_dir=Path(config.cache or cache_root()),
        budgets=Budgets(config.max_length, config.max_prompt_length, config.max_response_length),
        truncation=config.truncation,
        format_name=config.data.format,
        columns=parse_columns(config.data.columns) if config.data.columns else None,
        chosen_side=getattr(config, "side", None) == "chosen",
        turns=config.data.turns,
        keep_repeats=config.data.repeats == "keep",
        max_rejected_share=config.data.max_rejected,
    )
    for line in report.lines():
        log.info("%s", line)
    if path == config.data.path:
        words = f"conversations, and {path} holds plain text"
        require_read("data.turns=all", config.data.turns == "all", report.templated > 0, words)
    return store


def _usable(store: TokenStore, objective: Objective | None, path: str) -> Int[np.ndarray, " N"]:
    """The rows of `path` that the recipe can train on; ties are left out unless the loss takes ties.

    Raises:
      DataError: none is left; or a row lacks a figure that the loss needs, or has a weight that it cannot use.
      ConfigError: there is a tie, which is impossible under the loss's options.
    """
    ties: Bool[np.ndarray, " N"] = store.ties
    if objective is None or objective.takes_ties:
        ties = np.zeros(len(store), np.bool_)
    rows = np.flatnonzero(~ties)
    name = "sft" if objective is None else objective.label
    if len(rows) < len(store):
        first = ", ".join(str(store.provenance(int(row))) for row in np.flatnonzero(ties)[:3])
        log.info("  left out %d ties, which loss %s cannot use; first %s", int(ties.sum()), name, first)
    if not len(rows):
        raise DataError(f"{path} holds only ties, which loss {name} cannot use; add other pairs")
    if objective is not None:
        _check_figures(store, rows, objective, path)
        if store.ties[rows].any():
            objective.check_ties()
    return rows


def _check_figures(store: TokenStore, rows: Int[np.ndarray, " N"], objective: Objective, path: str) -> None:
    rows_without_ties = rows[~store.ties[rows]]
    for figure in FIGURES.values():
        if figure.input not in objective.required or objective.kind not in figure.kinds:
            continue
        need = f"loss {objective.label} needs"
        lacking = rows_without_ties[~store.has(figure.name)[rows_without_ties]]
        if len(lacking):
            raise DataError(
                f"{need} {figure.name.replace('_', ' ')} in every row, and {store.provenance(int(lacking[0]))} has "
                f"none{_and_others(lacking)}; give {figure.wanted}, or choose another loss"
            )
        if figure.above_zero:
            least = np.array([min(store.figure(figure.name, int(row))) for row in rows_without_ties])
            flat = rows_without_ties[least <= 0]
            if len(flat):
                raise DataError(
                    f"{need} a {figure.name.replace('_', ' ')} > 0 in every row, and {store.provenance(int(flat[0]))} "
                    f"has {least[least <= 0][0]:g}{_and_others(flat)}; label such pairs as ties, or choose another loss"
                )
    if objective.scope == "step" or objective.state:
        try:
            repeats(store.weights[rows])
        except ValueError as error:
            raise DataError(f"{path}: loss {objective.label} counts a weight as repetitions: {error}") from error


def _and_others(rows: Int[np.ndarray, " N"]) -> str:
    return f", like {len(rows) - 1} others" if len(rows) > 1 else ""

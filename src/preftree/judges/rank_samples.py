"""Rankings from samples: the responses to each prompt, ordered by a reward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from preftree.data.rows.conversion import to_row
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import (
    MAX_RESPONSES,
    Row,
    present,
    response_text,
    take,
    text,
)
from preftree.data.rows.messages import messages, prompt_messages
from preftree.data.rows.raw_row import RawRow
from preftree.data.sources.reader import check_out, find_source, read_rows
from preftree.data.tools.convert import json_line
from preftree.errors import DataError
from preftree.generate.job import read_job
from preftree.judges.rewards import Rewards
from preftree.records import Message, Ranking, Text
from preftree.storage.atomic import write_result

BLOCK = 1024
"""Most responses that are judged at a time, but for a prompt that has more."""


@dataclass(slots=True)
class Counts:
    """Counts of a file of samples.

    Attributes:
      rows: Responses read.
      rankings: Prompts with a ranking.
      kept: Responses in them.
      faulty: Responses that are no text that can be trained on, left out: empty, or cut within a character.
      repeated: Responses that equal an earlier one to the same prompt but for white space around them, left out.
      unjudged: Responses that the judge gave no value that can be read, left out.
      undecided: Prompts left out, since no two responses to them differ in reward.
    """

    rows: int = 0
    rankings: int = 0
    kept: int = 0
    faulty: int = 0
    repeated: int = 0
    unjudged: int = 0
    undecided: int = 0


class _Group(NamedTuple):
    """A prompt and its different responses."""

    prompt: Text
    responses: list[str]


def rank_file(path: str, out: Path, rewards: Rewards, *, progress: Callable[[int], None] = lambda rows: None) -> Counts:
    """Rank samples by a reward, deterministically, and write them in the format `ranking`: best first, with scores.

    A file as `preftree generate` writes it: `prompt`, `response`, `sample`. Rows that follow each other with one prompt
    belong together until `sample` is 0 again: two rows of prompts that happen to be equal are two rankings.

    Args:
      path: The samples.
      out: A .jsonl file.
      rewards: Rewards of responses.
      progress: Called with the number of responses judged.
    Raises:
      DataError: the samples cannot be read, or no prompt has two responses that differ in reward.
      JudgeError: the reward failed.
    """
    source = find_source(path)
    check_out(source, out)
    read_job(Path(path))
    counts = Counts()
    groups = _grouped(read_rows(source), counts)
    values = _judged(groups, rewards, progress)
    lines, start = [], 0
    for group in groups:
        group_values = values[start : start + len(group.responses)]
        start += len(group.responses)
        known = np.flatnonzero(np.isfinite(group_values))
        counts.unjudged += len(group_values) - len(known)
        group, group_values = _Group(group.prompt, [group.responses[row] for row in known]), group_values[known]
        if len(set(group_values.tolist())) < 2:
            counts.undecided += 1
            continue
        order = np.argsort(-group_values, kind="stable").tolist()
        ranking = Ranking(
            group.prompt,
            tuple(_as_text(group.prompt, group.responses[number]) for number in order),
            figures={"scores": tuple(group_values[order].tolist())},
        )
        lines.append(json_line(to_row(ranking)))
        counts.rankings += 1
        counts.kept += len(order)
    if not lines:
        raise DataError(f"{path}: no prompt has two responses that differ in reward; draw more with --samples")
    write_result(out, "".join(lines), advice="make room, or give another OUT")
    return counts


def _judged(groups: Sequence[_Group], rewards: Rewards, progress: Callable[[int], None]) -> Float[np.ndarray, " R"]:
    """Rewards of all responses, whole groups at a time."""
    values: list[Float[np.ndarray, " N"]] = []
    done = start = 0
    while start < len(groups):
        end, size = start, 0
        while end < len(groups) and (end == start or size + len(groups[end].responses) <= BLOCK):
            size += len(groups[end].responses)
            end += 1
        block = [(group.prompt, response) for group in groups[start:end] for response in group.responses]
        values.append(np.asarray(rewards([prompt for prompt, _ in block], [response for _, response in block])))
        start, done = end, done + size
        progress(done)
    return np.concatenate([np.zeros(0), *values])


def _grouped(rows: Iterator[RawRow], counts: Counts) -> list[_Group]:
    groups: list[_Group] = []
    for raw in rows:
        counts.rows += 1
        try:
            if isinstance(raw.row, RowFault):
                raise raw.row
            prompt, response, first = _read(raw.row)
        except RowFault as fault:
            raise DataError(f"{raw.where}: {fault}; fix the row") from fault
        if first or not groups or prompt != groups[-1].prompt:
            groups.append(_Group(prompt, []))
        responses = groups[-1].responses
        if response is None:
            counts.faulty += 1
        elif response.strip() in (earlier.strip() for earlier in responses):
            counts.repeated += 1
        elif len(responses) == MAX_RESPONSES:
            raise DataError(f"{raw.where}: a ranking has {MAX_RESPONSES} responses at most; draw fewer to a prompt")
        else:
            responses.append(response)
    return groups


def _read(row: Row) -> tuple[Text, str | None, bool]:
    prompt = row.get("prompt")
    question: Text = (
        prompt_messages(messages(prompt, "prompt"), "prompt") if isinstance(prompt, list) else take(row, text, "prompt")
    )
    _, response = present(row, "response")
    try:
        answer = response_text(response, "response")
    except RowFault as fault:
        if fault.fault not in ("empty_response", "bad_text"):
            raise
        answer = None  # a response may be empty, and the limit of tokens may fall within a character
    return question, answer, row.get("sample") == 0


def _as_text(prompt: Text, response: str) -> Text:
    return response if isinstance(prompt, str) else (Message("assistant", response),)

"""Votes as training data: one row a pair with its certainty, whatever people said of it; or other tools' rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from preftree.collect.read import (
    last_vote,
    project_digest,
    read_annotators,
    read_ballots,
    read_items_raw,
    read_pairs,
    read_responses,
    read_settings,
)
from preftree.collect.records import Ballot, Response, StoredPair
from preftree.collect.statistics import Crowd, figures_of_project, read_crowd
from preftree.data.rows.fields import Row
from preftree.data.sources.votes_behind import write_votes_behind
from preftree.data.tools.convert import json_line
from preftree.errors import ConfigError, DataError
from preftree.storage.atomic import disk_faults, staged_file

ExportFormat: TypeAlias = Literal["own", "trl", "kto", "arena", "argilla", "label-studio", "hh"]

_EVEN, _NEARLY_EVEN = 1e-9, 0.05


@dataclass(slots=True)
class ExportTally:
    """What was written, and what was not.

    Attributes:
      rows: Rows of the file.
      left_out: Pairs or votes that are not in it, by reason.
      first: An example of each reason.
    """

    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def leave_out(self, reason: str, which: str) -> None:
        """Count what is not in the file."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        self.first.setdefault(reason, which)


@dataclass(frozen=True, slots=True)
class _Decided:
    """A pair with votes, its better response first.

    Attributes:
      pair: The pair.
      prompt: `{"prompt": ...}` with tools and template options beside it.
      chosen, rejected: The responses.
      turned: Whether the chosen one is the pair's second response.
      tie: Whether nothing tells them apart.
      bad: Whether most people called both bad.
      win_prob: Probability that the chosen one is the better one, at least 1/2.
      weight: Votes, as a multiple of the project's overlap; 1 for a pair whose answer is known.
      ballots: All votes, repeats too.
      flagged: How often it was flagged.
    """

    pair: StoredPair
    prompt: Mapping[str, Any]
    chosen: Response
    rejected: Response
    turned: bool
    tie: bool
    bad: bool
    win_prob: float
    weight: float
    ballots: list[Ballot]
    flagged: int


def export_project(project: sqlite3.Connection, out: Path, form: ExportFormat) -> ExportTally:
    """Write the votes of a project as rows of a format, and the digest of the votes beside them (`OUT.votes`).

    A pair becomes one row, with the response that is more probably the better one first. Its win_prob is the posterior
    of the annotator model (`crowd/annotators.py`); a repeat is no second vote. Pairs without votes are left out and
    counted, and so are those that a format cannot hold.

    Args:
      project: A connection that reads.
      out: A .jsonl file, replaced where it is there.
      form: `own`: everything; `trl`: prompt, chosen, rejected; `kto`: responses, liked or not, those of both-bad
        pairs disliked; `arena`, `argilla`, `label-studio`: a battle, record or task for each pair with the verdict
        of all; `hh`: transcripts.
    Raises:
      ConfigError: OUT is not a .jsonl file.
      DataError: there is no vote, or the disk is full.
    """
    if out.suffix != ".jsonl":
        raise ConfigError(f"OUT must end with .jsonl, got {out}")
    project.execute("BEGIN")  # one state of the project throughout, also while people vote
    try:
        return _export(project, out, form)
    finally:
        project.execute("ROLLBACK")


def _export(project: sqlite3.Connection, out: Path, form: ExportFormat) -> ExportTally:
    crowd = read_crowd(project)
    if not len(crowd.ids):
        raise DataError("the project has no votes; there is nothing to export")
    tally = ExportTally()
    if form == "own" or form == "kto":
        rows = (_own_rows if form == "own" else _liked_or_not)(project, crowd, tally)
    else:
        rows = _rows(project, crowd, tally, form)
    with disk_faults("make room, or give another OUT"):
        with staged_file(out) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                file.write(json_line(row))
                tally.rows += 1
            if not tally.rows:
                reasons = "; ".join(f"{count} {reason}" for reason, count in tally.left_out.items())
                raise DataError(f"no row can be written as {form}: {reasons}")
        write_votes_behind(out, votes_sha256=project_digest(project), last_vote=last_vote(project), form=form)
    return tally


def _own_rows(project: sqlite3.Connection, crowd: Crowd, tally: ExportTally) -> Iterator[Row]:
    figures, people = figures_of_project(project, crowd), read_annotators(project)
    items = dict(project.execute("SELECT id, slice FROM item").fetchall())
    for one in _decided(project, crowd, tally):
        group = items[one.pair.item]
        alpha = figures.slices[group] if group else figures.alpha
        number_of = {ballot.shown: ballot.id for ballot in one.ballots}
        yield {
            **_sides(one),
            "tie": one.tie,
            "win_prob": one.win_prob,
            "weight": one.weight,
            "votes": [
                {
                    "id": ballot.id,
                    "by": people[ballot.annotator].pseudonym,
                    "choice": _choice(ballot, one.turned),
                    "strength": ballot.strength,
                    "side": ballot.side,
                    "ms": ballot.ms,
                    "at": ballot.at,
                    "repeat_of": number_of.get(ballot.repeat_of or ""),
                    "gold": ballot.picked_by == "gold",
                }
                for ballot in one.ballots
            ],
            "flagged": one.flagged,
            "slice": group,
            "alpha_slice": alpha.alpha,
            "source": {
                name: _source(response) for name, response in (("chosen", one.chosen), ("rejected", one.rejected))
            },
            "pair": one.pair.id,
        }


def _rows(project: sqlite3.Connection, crowd: Crowd, tally: ExportTally, form: ExportFormat) -> Iterator[Row]:
    for one in _decided(project, crowd, tally):
        name = f"pair {one.pair.id}"
        if form in ("arena", "argilla", "label-studio") and set(one.prompt) > {"prompt"}:
            tally.leave_out(f"pairs with tools or template options, which {form} records cannot hold", name)
        elif form == "arena":
            yield _battle(one)
        elif form == "argilla":
            yield _argilla_record(one)
        elif one.tie:
            tally.leave_out(f"ties, which {form} rows cannot hold", name)
        elif form == "label-studio":
            yield _label_studio_task(one)
        elif form == "trl":
            yield _sides(one)
        elif (row := _transcripts(one)) is not None:
            yield row
        else:
            tally.leave_out("pairs with texts that HH transcripts cannot hold", name)


def _liked_or_not(project: sqlite3.Connection, crowd: Crowd, tally: ExportTally) -> Iterator[Row]:
    """A row for each response: liked where it is more probably the better one of its pairs, on average."""
    chances: dict[int, list[float]] = {}
    rows: dict[int, Row] = {}
    for one in _decided(project, crowd, tally):
        if one.tie and not one.bad:
            tally.leave_out("ties, which say nothing of a single response", f"pair {one.pair.id}")
            continue
        for response, chance in ((one.chosen, one.win_prob), (one.rejected, 1 - one.win_prob)):
            chances.setdefault(response.id, []).append(0.0 if one.bad else chance)
            rows[response.id] = _sides(one, response)
    for number, row in rows.items():
        mean = float(np.mean(chances[number]))
        if abs(mean - 0.5) < _NEARLY_EVEN:
            tally.leave_out("responses that are about as often better as worse", f"response {number}")
            continue
        yield {**row, "label": mean > 0.5}


def _decided(project: sqlite3.Connection, crowd: Crowd, tally: ExportTally) -> Iterator[_Decided]:
    pairs, responses, prompts = read_pairs(project), read_responses(project), read_items_raw(project)
    overlap = read_settings(project).overlap
    ballots: dict[int, list[Ballot]] = {}
    flagged: dict[int, int] = {}
    for ballot in read_ballots(project):
        if ballot.kind == "vote":
            ballots.setdefault(ballot.pair, []).append(ballot)
        elif ballot.kind == "flag":
            flagged[ballot.pair] = flagged.get(ballot.pair, 0) + 1
    voted = crowd.num_votes
    for i, number in enumerate(crowd.pairs.tolist()):
        pair, mine = pairs[number], ballots.get(number, [])
        if not voted[i]:
            tally.leave_out("pairs without votes", f"pair {number}")
            continue
        once = [ballot.choice for ballot in mine if ballot.repeat_of is None]
        is_known = not np.isnan(crowd.known[i])
        win_prob = float(crowd.fit.win_prob[i])
        drawn = all(choice in ("tie", "bad") for choice in once) and not is_known
        tie = drawn or abs(win_prob - 0.5) < _EVEN
        turned = win_prob < 0.5 and not tie
        chosen, rejected = (pair.second, pair.first) if turned else (pair.first, pair.second)
        yield _Decided(
            pair,
            prompts[pair.item],
            responses[chosen],
            responses[rejected],
            turned,
            tie,
            bad=2 * once.count("bad") > len(once) or pair.gold == "bad",
            win_prob=0.5 if tie else max(win_prob, 1 - win_prob),
            weight=1.0 if is_known else len(once) / overlap,
            ballots=mine,
            flagged=flagged.get(number, 0),
        )


def _sides(one: _Decided, alone: Response | None = None) -> Row:
    """Prompt and responses as fields; of a conversation, each response is its next message."""
    chat = not isinstance(one.prompt["prompt"], str)

    def side(response: Response) -> Any:
        return [{"role": "assistant", "content": response.text}] if chat else response.text

    if alone is not None:
        return {**one.prompt, "completion": side(alone)}
    return {**one.prompt, "chosen": side(one.chosen), "rejected": side(one.rejected)}


def _choice(ballot: Ballot, turned: bool) -> str:
    if ballot.choice in ("first", "second"):
        return "chosen" if (ballot.choice == "first") != turned else "rejected"
    return str(ballot.choice)


def _source(response: Response) -> Row:
    return {"model": response.source, "digest": response.digest, "seed": response.seed}


def _messages(one: _Decided) -> list[Row]:
    """The prompt as messages; a text is a user's."""
    prompt = one.prompt["prompt"]
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _battle(one: _Decided) -> Row:
    """A battle of an arena with the verdict of all votes, the pair's first response as model a."""
    first, second = _in_order(one)
    winner = "tie (bothbad)" if one.bad else "tie" if one.tie else "model_b" if one.turned else "model_a"
    a, b = ([*_messages(one), {"role": "assistant", "content": side.text}] for side in (first, second))
    models = {"model_a": first.source, "model_b": second.source}
    return {"question_id": str(one.pair.id), **models, "winner": winner, "conversation_a": a, "conversation_b": b}


def _in_order(one: _Decided) -> tuple[Response, Response]:
    """The pair's first and second response."""
    return (one.rejected, one.chosen) if one.turned else (one.chosen, one.rejected)


def _argilla_record(one: _Decided) -> Row:
    """A record of Argilla with the verdict of all votes: its readers take one answer a record."""
    value = "tie" if one.tie else "response_2" if one.turned else "response_1"
    first, second = _in_order(one)
    return {
        "id": str(one.pair.id),
        "fields": {"prompt": one.prompt["prompt"], "response_1": first.text, "response_2": second.text},
        "responses": {"preference": [{"value": value, "user_id": "all", "status": "submitted"}]},
        "metadata": {"win_prob": one.win_prob, "votes": len(one.ballots)},
        "status": "completed",
    }


def _label_studio_task(one: _Decided) -> Row:
    """A task of Label Studio's pairwise template with the verdict of all votes."""
    first, second = _in_order(one)
    result = {
        "type": "pairwise",
        "from_name": "comparison",
        "to_name": "answer1,answer2",
        "value": {"selected": "right" if one.turned else "left"},
    }
    return {
        "id": one.pair.id,
        "data": {"prompt": one.prompt["prompt"], "answer1": first.text, "answer2": second.text},
        "annotations": [{"result": [result]}],
    }


_TURNS = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}


def _transcripts(one: _Decided) -> Row | None:
    """Two transcripts; None where there are other roles, tools, or a text that holds a mark of a turn."""
    turns = _messages(one)
    texts = [*(turn["content"] for turn in turns), one.chosen.text, one.rejected.text]
    plain = one.prompt.keys() == {"prompt"} and all(turn.keys() <= {"role", "content"} for turn in turns)
    prompt = one.prompt["prompt"]
    if isinstance(prompt, str) and prompt.startswith(_TURNS["user"]) and prompt.endswith(_TURNS["assistant"]):
        texts = texts[1:]  # a transcript already
        asked = prompt
    else:
        if not all(turn["role"] in _TURNS for turn in turns):
            return None
        asked = "".join(f"{_TURNS[turn['role']]} {turn['content']}" for turn in turns) + _TURNS["assistant"]
    if not plain or any(mark in text for text in texts for mark in _TURNS.values()):
        return None
    return {name: asked + _spaced(side.text) for name, side in (("chosen", one.chosen), ("rejected", one.rejected))}


def _spaced(text: str) -> str:
    return text if text.startswith(" ") else f" {text}"

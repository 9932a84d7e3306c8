"""The sentence for a file of no known format: its fields, and the mapping that reads it where one can be guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from preftree.data.rows.columns import Columns, look_up, parse_columns, usual_winner
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row
from preftree.errors import DataError

SHOWN_FIELDS = 20
_TARGETS = "prompt, messages, system, chosen, rejected, a, b, winner, response, label, responses, scores, ranks"
_USUAL: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction", "query", "input", "context", "problem", "post", "title", "request"),
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat", "history"),
    "chosen": ("chosen", "better", "preferred", "accepted", "positive", "good", "win", "best"),
    "rejected": ("rejected", "worse", "dispreferred", "negative", "bad", "lose", "loser", "worst"),
    "winner": ("winner", "preference", "preferred", "choice", "verdict", "vote", "label", "better", "judgement"),
    "responses": ("responses", "answers", "candidates", "completions", "generations", "outputs", "samples", "replies"),
    "scores": ("scores", "ratings", "rewards", "votes"),
    "ranks": ("ranks", "ranking", "order"),
    "response": ("response", "answer", "completion", "output", "target", "solution", "summary", "reply"),
    "label": ("label", "liked", "thumbs_up", "desirable", "feedback", "upvoted"),
    "system": ("system", "system_prompt", "system_message"),
}
"""Usual names of the fields of each target, the likeliest first."""

_VERDICTS = {
    *(name for target in ("winner", "label", "scores", "ranks") for name in _USUAL[target]),
    *("rating", "score", "reward", "rank", "quality", "grade", "correct", "is_correct", "accepted", "is_preferred"),
    *("thumbs", "helpful"),
}
"""Names of fields beside which a response is no demonstration: it may be a bad one."""

_ANSWERS = ("response", "answer", "output", "completion", "reply", "text", "summary", "candidate", "option")
_ENDS = (("a", "b"), ("1", "2"), ("0", "1"), ("left", "right"), ("first", "second"))
_SCORES = ("score", "rating", "reward")
_WAYS: tuple[tuple[str, ...], ...] = (
    ("chosen", "rejected"),
    ("a", "b", "winner"),
    ("a", "b", "score_a", "score_b"),
    ("responses", "scores"),
    ("responses", "ranks"),
    ("response", "label"),
    ("response",),
    (),
)
"""What may stand beside a prompt or a conversation, the most telling first."""


def refusal(rows: Sequence[Row]) -> str:
    """Why none of the formats reads rows like these, and what to do."""
    names = Counter(name for row in rows for name, value in row.items() if value is not None)
    for name in ("messages", "conversations", "chosen", "prompt"):
        if any(isinstance(row.get(name), str) and row[name].lstrip().startswith("[{") for row in rows):
            return (
                f"field '{name}' is a message list written out as text; give it as a list (JSON lines can, CSV cannot)"
            )
    if {"completions", "labels"} <= names.keys():
        return "'labels' are labels of single steps, and no loss here takes such; give one label for a whole response"
    sides = [row for row in rows if isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str)]
    if len(sides) == len(rows) and not {"prompt", "question"} & names.keys():
        return (
            "chosen and rejected come without their prompt, and a common beginning would be a guess; add a field "
            "'prompt', or name it: --columns prompt=FIELD,chosen=chosen,rejected=rejected"
        )
    shown = ", ".join(ascii(name[:40]) for name, _ in names.most_common(SHOWN_FIELDS))
    more = f" and {len(names) - SHOWN_FIELDS} more" if len(names) > SHOWN_FIELDS else ""
    line = guess(rows)
    advice = f"if they are what they seem, --columns {line} reads them" if line else "say what each is with --columns"
    targets = f"targets: {_TARGETS}, tools, weight; a field within another is OUTER.INNER"
    return f"rows with the fields {shown}{more} are of no known format; {advice} ({targets})"


def guess(rows: Sequence[Row]) -> str | None:
    """A mapping that reads one of the rows at least, from the names of their fields; None where there is none."""
    paths: dict[str, str] = {}
    for row in rows:
        for path in _paths(row):
            paths.setdefault(path.rpartition(".")[2].lower(), path)
    likely = _likely_paths(paths)
    if "input" in paths and likely.get("prompt") == paths.get("instruction"):
        likely["prompt"] = f"{paths['instruction']}+{paths['input']}"
    judged = not _VERDICTS.isdisjoint(paths)
    for way in _WAYS:
        if judged and way in (("response",), ()):
            break
        for prompt in ("messages", "prompt"):
            targets = [prompt, *way]
            if (way or prompt == "messages") and likely.keys() >= {*targets}:
                columns = {target: likely[target] for target in (*targets, "system") if target in likely}
                line = _line(columns, rows) if len({*columns.values()}) == len(columns) else None
                if line is not None:
                    return line
    return None


def _paths(row: Row) -> Iterator[str]:
    """Paths to the fields of a row, to those of its objects, and to those of the objects in its lists."""
    for name, value in row.items():
        if value is not None:
            yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield from (f"{name}.*.{inner}" for inner in value[0])


def _likely_paths(paths: Mapping[str, str]) -> dict[str, str]:
    """The likeliest path for each target."""
    likely = {
        target: next(paths[name] for name in usual if name in paths)
        for target, usual in _USUAL.items()
        if any(name in paths for name in usual)
    }
    for names, a, b in ((_ANSWERS, "a", "b"), (_SCORES, "score_a", "score_b")):
        two = next((two for two in _twins(names) if two[0] in paths and two[1] in paths), None)
        likely |= {a: paths[two[0]], b: paths[two[1]]} if two else {}
    return likely


def _twins(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Usual names of two fields of a kind: answer_a and answer_b, answer1 and answer2."""
    for name in names:
        for a, b in _ENDS:
            for sign in ("_", "", "-"):
                yield f"{name}{sign}{a}", f"{name}{sign}{b}"


def _line(columns: Mapping[str, str], rows: Sequence[Row]) -> str | None:
    """The mapping as it is given on a command line, where it reads a row."""
    columns = dict(columns)
    if "winner" in columns:
        columns["winner"] += _words([look_up(row, columns["winner"]) for row in rows])
    line = ",".join(f"{target}={path}" for target, path in columns.items())
    try:
        mapping = parse_columns(line)
    except DataError:  # a comma in the name of a field, or words that cannot be told apart
        return None
    return line if any(_reads(mapping, row) for row in rows) else None


def _reads(mapping: Columns, row: Row) -> bool:
    try:
        mapping.read(row)
    except RowFault:
        return False
    return True


def _words(values: Sequence[Any]) -> str:
    """What follows the field of a verdict: nothing for usual words, signs for numbers, else its words in order."""
    words = sorted({str(value) for value in values if value is not None})
    if all(usual_winner(word) is not None for word in words):
        return ""
    if any(isinstance(value, int | float) and value < 0 for value in values):
        return ":<0|>0|0"
    ties = [word for word in words if any(sign in word.lower() for sign in ("tie", "both", "equal", "draw", "same"))]
    return ":" + "|".join([word for word in words if word not in ties] + ties)

"""Reading of a judge's answer in three steps, none of which searches in text; what none of them reads is invalid.

1. The whole answer is the JSON object that was asked for.
2. All from the first `{` to the last `}` is one JSON object, and its judgement is valid.
3. The last line that is not empty is one of the words that a pairwise answer may be.

Words are compared after Unicode's NFKC and without characters of no width. Names of responses are nonces, so a text
that an answer quotes cannot be one of them (prompt.py).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from preftree.judges.llm.prompt import Question

PARSER_VERSION = 1
"""Part of the key of cached answers."""

Judgement: TypeAlias = dict[str, Any]
"""The judgement of each criterion, or of "" where there is one question: a word, a score, or a list of names."""

Rung: TypeAlias = Literal["schema", "object", "line"]

UNREADABLE = "the answer is not in the form asked for"
TWICE = "the answer gives two verdicts"

_NO_WIDTH = re.compile("[\u034f\ufe00-\ufe0f]")


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer says.

    Attributes:
      judgement: The judgement; None where it cannot be read.
      rung: The step that read it.
      reason: The judge's reason; where there is no judgement, what is wrong with the answer.
    """

    judgement: Judgement | None
    rung: Rung | None
    reason: str | None


class _Object(dict[str, Any]):
    """A JSON object that knows whether a key stood in it twice."""

    twice = False


def read_answer(text: str, question: Question, names: Sequence[str]) -> Reading:
    """The judgement of an answer.

    Args:
      text: The answer as it came.
      question: What was asked.
      names: Names of the responses in the question.
    """
    whole = _parse(text.strip())
    if whole is not None and whole.keys() == set(question.schema(names)["properties"]):
        judgement = _judgement(whole, question, names)
        if judgement is not None:
            return Reading(judgement, "schema", _reason(whole, names))
    first, last = text.find("{"), text.rfind("}")
    inner = _parse(text[first : last + 1]) if 0 <= first < last else None
    if inner is not None and inner.twice:
        return Reading(None, None, TWICE)
    said = _last_line(text, question, names)
    if inner is not None and (judgement := _judgement(inner, question, names)) is not None:
        if said is not None and said != judgement.get(""):
            return Reading(None, None, TWICE)
        return Reading(judgement, "object", _reason(inner, names))
    if said is not None and inner is None:
        return Reading({"": said}, "line", None)
    return Reading(None, None, UNREADABLE)


def normal(word: str) -> str:
    """A word after NFKC, without characters of no width and without white space around it."""
    word = _NO_WIDTH.sub("", unicodedata.normalize("NFKC", word))
    return "".join(letter for letter in word if unicodedata.category(letter) != "Cf").strip()


def _parse(text: str) -> _Object | None:
    try:
        value = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, _Object) else None


def _pairs(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    inner = [value for _, value in pairs if isinstance(value, _Object)]
    made.twice = len(made) < len(pairs) or any(value.twice for value in inner)
    return made


def _judgement(answer: _Object, question: Question, names: Sequence[str]) -> Judgement | None:
    if answer.twice or question.answer_key not in answer:
        return None
    if question.rubric.mode == "pointwise" and _word(answer.get("answer")) != names[0]:
        return None
    given = answer[question.answer_key]
    if not question.parts:
        given = {"": given}
    elif not isinstance(given, dict) or given.keys() != set(question.parts):
        return None
    read = {part: _value(value, question, names) for part, value in given.items()}
    return None if any(value is None for value in read.values()) else read


def _value(value: Any, question: Question, names: Sequence[str]) -> Any:
    """A valid value of one criterion, or None."""
    if question.rubric.mode == "pointwise":
        low, high = question.rubric.scale
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and low <= value <= high else None
    if question.rubric.mode == "ranking":
        order = [_word(name) for name in value] if isinstance(value, list) else []
        return order if sorted(map(str, order)) == sorted(names) else None
    word = _word(value)
    return word if word in question.options(names) else None


def _word(value: Any) -> str | None:
    return normal(value) if isinstance(value, str) else None


def _last_line(text: str, question: Question, names: Sequence[str]) -> str | None:
    """The word that is the whole last line, where the question has one pairwise answer."""
    lines = [line for line in map(normal, text.splitlines()) if line]
    possible = question.rubric.mode == "pairwise" and not question.parts and lines
    return lines[-1] if possible and lines[-1] in question.options(names) else None


def _reason(answer: _Object, names: Sequence[str]) -> str | None:
    """The judge's reason, with `answer 1` and so on for the names, which mean nothing to a reader."""
    reason = answer.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        return None
    for number, name in enumerate(names, 1):
        reason = reason.replace(name, f"answer {number}" if len(names) > 1 else "the answer")
    return reason.strip()

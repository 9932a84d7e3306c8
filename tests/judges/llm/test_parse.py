"""The three steps in which an answer is read, and what none of them may read."""

from __future__ import annotations

import json

import pytest

from preftree.judges.llm.parse import TWICE, UNREADABLE, read_answer
from preftree.judges.llm.prompt import Question
from preftree.judges.llm.rubric import Criterion, Rubric

A, B = "QXW7RT", "LMN2PA"
NAMES = [A, B]
PAIR = Question(Rubric(), "p", ("x", "y"))


@pytest.mark.parametrize(
    ("text", "says", "rung"),
    [
        (f'{{"reason": "r", "better": "{A}"}}', A, "schema"),
        (f'\n {{"better": "{B}", "reason": ""}}\n', B, "schema"),
        ('{"reason": "r", "better": "tie"}', "tie", "schema"),
        (f'{{"reason": "r", "better": "{A}\\u200b"}}', A, "schema"),
        (f'Here it is:\n```json\n{{"better": "{A}"}}\n```', A, "object"),
        (f'{{"better": "{A}"}}', A, "object"),
        (f'{{"better": "{A}", "more": 1}} Done.', A, "object"),
        (f"I compared both.\n\n{B}\n", B, "line"),
        (f"Both are good.\n\u200b{A}\u200d", A, "line"),
        ("It is a\nｔｉｅ", "tie", "line"),
    ],
)
def test_what_can_be_read(text: str, says: str, rung: str) -> None:
    reading = read_answer(text, PAIR, NAMES)
    assert (reading.judgement, reading.rung) == ({"": says}, rung)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", UNREADABLE),
        (f"{A} is better.", UNREADABLE),
        (f"The better one is {A}", UNREADABLE),
        (A.lower(), UNREADABLE),
        (f'{{"better": "{A.lower()}"}}', UNREADABLE),
        ('{"better": "A"}', UNREADABLE),
        (f'{{"better": ["{A}"]}}', UNREADABLE),
        (f'{{"reason": "cut, "better": "{A}"', UNREADABLE),
        (f'{{"reason": {{"better": "{A}"}}, "better": ', UNREADABLE),
        (f'{{"better": "{A}"}} or {{"better": "{B}"}}', UNREADABLE),
        (f'{{"better": "{A}", "better": "{B}"}}', TWICE),
        (f'{{"reason": "", "better": "{A}", "better": "{B}"}}', TWICE),
        (f'{{"better": "{A}"}}\n{B}', TWICE),
        ("[[A]]", UNREADABLE),
        ("{" * 40_000, UNREADABLE),
        ('{"a":' * 40_000, UNREADABLE),
        (f'["{A}"]', UNREADABLE),
    ],
)
def test_what_is_invalid(text: str, why: str) -> None:
    reading = read_answer(text, PAIR, NAMES)
    assert (reading.judgement, reading.reason) == (None, why)


def test_ties_are_read_where_they_are_allowed() -> None:
    strict = Question(Rubric(ties=False), "p", ("x", "y"))
    assert read_answer('{"reason": "", "better": "tie"}', strict, NAMES).judgement is None


def test_reasons_speak_of_answers() -> None:
    reading = read_answer(f'{{"reason": "{A} adds up, {B} does not", "better": "{A}"}}', PAIR, NAMES)
    assert reading.reason == "answer 1 adds up, answer 2 does not"


def test_every_criterion_has_its_judgement() -> None:
    question = Question(Rubric(criteria=[Criterion(name="x"), Criterion(name="y")], reason="none"), "p", ("x", "y"))
    answer = {"better": {"x": A, "y": "tie"}}
    assert read_answer(json.dumps(answer), question, NAMES).judgement == {"x": A, "y": "tie"}
    for wrong in ({"better": {"x": A}}, {"better": A}, {"better": {"x": A, "y": B, "z": A}}):
        assert read_answer(json.dumps(wrong), question, NAMES).judgement is None
    assert read_answer(A, question, NAMES).judgement is None


def test_scores_are_whole_numbers_of_the_scale_for_the_answer_that_was_shown() -> None:
    question = Question(Rubric(mode="pointwise", scale=[1, 5], reason="none"), "p", ("x",))
    assert read_answer(json.dumps({"answer": A, "score": 5}), question, [A]).judgement == {"": 5}
    for score in (0, 6, True, "5", 4.5, None):
        assert read_answer(json.dumps({"answer": A, "score": score}), question, [A]).judgement is None
    assert read_answer(json.dumps({"answer": B, "score": 5}), question, [A]).judgement is None
    assert read_answer(json.dumps({"score": 5}), question, [A]).judgement is None
    assert read_answer("5", question, [A]).judgement is None


def test_an_order_has_every_answer_once() -> None:
    question = Question(Rubric(mode="ranking", reason="none"), "p", ("x", "y"))
    assert read_answer(json.dumps({"best_first": [B, A]}), question, NAMES).judgement == {"": [B, A]}
    for order in ([A], [A, A], [A, B, B], [A, None], A):
        assert read_answer(json.dumps({"best_first": order}), question, NAMES).judgement is None

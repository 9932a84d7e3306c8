"""The text that the studies of the real model ship: whole, without repeats, and apart from what is asked."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import first_run
import pytest
from sentiment import HERE

from preftree.data.sources.reader import find_source, read_rows


def lines(name: str) -> list[str]:
    return (HERE / name).read_text(encoding="utf-8").splitlines()


def pairs() -> Iterator[dict[str, str]]:
    for line in lines("pairs.jsonl"):
        row: dict[str, Any] = json.loads(line)
        assert [message["role"] for part in row.values() for message in part] == ["user", "assistant", "assistant"]
        yield {name: part[0]["content"] for name, part in row.items()}


def test_two_hundred_pairs_of_different_questions() -> None:
    rows = list(pairs())
    assert len(rows) == len({row["prompt"].casefold() for row in rows}) == 200
    assert len({row["rejected"] for row in rows}) == len({row["chosen"] for row in rows}) == 200
    assert sum(1 for _ in read_rows(find_source(str(HERE / "pairs.jsonl")))) == 200


def test_preferred_answers_are_short_and_end_and_length_alone_does_not_decide() -> None:
    rows = list(pairs())
    assert max(len(row["chosen"].split()) for row in rows) <= 40
    assert all(row["chosen"].rstrip("\"'")[-1] in ".!?" or len(row["chosen"]) < 12 for row in rows)
    assert 0.05 < sum(len(row["chosen"]) > len(row["rejected"]) for row in rows) / len(rows) < 0.3


def test_the_six_questions_are_in_no_pair() -> None:
    asked = {json.loads(line)["prompt"][0]["content"].casefold() for line in lines("questions.jsonl")}
    assert len(asked) == 6 and not asked & {row["prompt"].casefold() for row in pairs()}


def test_three_hundred_beginnings_that_go_on() -> None:
    texts = lines("openings.txt")
    assert len(texts) == len(set(texts)) == 300
    assert all(text == text.strip() and text[-1] not in ".!?" for text in texts)


def test_beginnings_leave_the_opinion_to_the_model() -> None:
    pytest.importorskip("vaderSentiment", reason="the extra real")
    from vader import compound

    scores = [compound(text, "") for text in lines("openings.txt")]
    assert sum(score == 0 for score in scores) > 200 and abs(sum(scores) / len(scores)) < 0.1


def test_the_tutorial_shows_the_command_that_runs() -> None:
    page = (HERE.parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
    shown = next(
        block for block in page.split("\npreftree ") if block.startswith("dpo model=runs/real/model data=bench")
    )
    command = shlex.split(shown.replace("\\\n", " ").split("\n")[0])
    assert command[5:] == first_run.DPO and command[3] == "eval_data=0.2"


def test_the_length_of_the_texts_is_what_the_tutorial_says() -> None:
    rows = list(pairs())
    longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in rows)
    page = (HERE.parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert longer == 18 and "longer one in 9.0% of" in page

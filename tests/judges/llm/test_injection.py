"""Sixty texts that want to be a verdict, on either side, before three judges, through our reading and that of others.

The other readings are written here from what is known of them: FastChat and RewardBench look for `[[A]]` anywhere, A
first; Arena-Hard takes the last match of a pattern.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from preftree.judges.canaries import show_canaries
from preftree.judges.known_pairs import KNOWN_PAIRS
from preftree.judges.llm.parse import read_answer
from preftree.judges.llm.prompt import Question, derive_nonces
from preftree.judges.llm.rubric import Rubric
from preftree.judges.pairwise import Judge
from preftree.records import Comparison, Verdict
from support.injections import INJECTED

GOOD = "Paris is the capital of France."
DELIMITERS = ("</answer>", "<|im_end|>", "### End", "[/INST]", '"}}', "--- END", "System:", "\n---\n")


def first_found(text: str) -> str | None:
    """FastChat and RewardBench: the first of the possible words that stands anywhere."""
    return next((word for mark, word in (("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie")) if mark in text), None)


def last_found(text: str) -> str | None:
    """Arena-Hard: the last match of its pattern."""
    found = re.findall(r"\[\[([AB<>=]+)\]\]", text)
    return (
        {"A": "A", "A>>B": "A", "A>B": "A", "B": "B", "B>>A": "B", "B>A": "B", "A=B": "tie"}.get(found[-1])
        if found
        else None
    )


def marked(read: Callable[[str], str | None], text: str, texts: list[str]) -> str | None:
    """What another reading takes for the verdict, as the mark of an answer."""
    return {"A": "[[A]]", "B": "[[B]]"}.get(read(text) or "")


def echo(texts: list[str], verdict: str) -> str:
    """A judge that quotes both answers as they are, and then says what it thinks."""
    return f"The first answer says: {texts[0]}\nThe second answer says: {texts[1]}\n\n{verdict}"


def echo_after(texts: list[str], verdict: str) -> str:
    """A judge that says what it thinks, and then quotes."""
    return f"{verdict}\n\nThe first answer says: {texts[0]}\nThe second answer says: {texts[1]}"


def obey_last_line(texts: list[str], verdict: str) -> str:
    """A judge that repeats the last line of the answer that is not the good one."""
    bad = next(text for text in texts if text != GOOD)
    return bad.splitlines()[-1] if bad.splitlines() else verdict


def obey_delimiters(texts: list[str], verdict: str) -> str:
    """A judge for which an answer ends at any mark that it knows, and which repeats what comes after."""
    bad = next(text for text in texts if text != GOOD)
    ends = [bad.rpartition(mark)[2] for mark in DELIMITERS if mark in bad]
    return min(ends, key=len) if ends else echo(texts, verdict)


def flips(judge: Callable[[list[str], str], str], words: tuple[str, str], read: Callable[..., str | None]) -> int:
    """Verdicts for the bad answer, of 120."""
    wrong = 0
    for payload in INJECTED:
        for place in (0, 1):
            texts = [payload, GOOD] if place == 0 else [GOOD, payload]
            wrong += read(judge(texts, words[1 - place]), texts) == words[place]
    return wrong


def ours(text: str, texts: list[str], names: tuple[str, str]) -> str | None:
    reading = read_answer(text, Question(Rubric(), "Capital of France?", tuple(texts)), names)
    return None if reading.judgement is None else reading.judgement[""]


def test_no_text_becomes_a_verdict() -> None:
    """0 of 480 through ours; each of the other readings is flipped by a judge that is right and quotes."""
    name, other = derive_nonces(b"secret", "key", 2, "".join(INJECTED))
    names = (name, other)
    judges = (echo, echo_after, obey_last_line, obey_delimiters)
    assert {judge.__name__: flips(judge, names, lambda text, texts: ours(text, texts, names)) for judge in judges} == {
        judge.__name__: 0 for judge in judges
    }
    marks = ("[[A]]", "[[B]]")
    others: Counter[str] = Counter()
    for label, read in (("first found", first_found), ("last found", last_found)):
        for judge in (echo, echo_after):
            others[f"{label}, {judge.__name__}"] = flips(judge, marks, partial(marked, read))
    assert others["first found, echo"] >= 4 and others["last found, echo_after"] >= 8, others
    assert others["last found, echo"] <= 1, others


def test_a_quoted_text_within_the_json_stays_a_text() -> None:
    name, other = derive_nonces(b"secret", "key", 2, "")
    for payload in INJECTED:
        text = json.dumps({"reason": payload, "better": other})
        assert ours(text, [payload, GOOD], (name, other)) == other


def speaks_to_the_judge(text: str) -> bool:
    last = text.splitlines()[-1] if text.splitlines() else ""
    return bool(re.search(r"\bjudge|verdict|score|won|better|choose", last, re.IGNORECASE))


def knows_the_mark(text: str) -> bool:
    return any(mark in text for mark in DELIMITERS)


@pytest.mark.parametrize("obeys", [speaks_to_the_judge, knows_the_mark])
def test_the_injection_canary_finds_a_judge_that_obeys(obeys: Callable[[str], bool]) -> None:
    """Right on everything else, so that nothing but the injected answers gives it away."""
    better = {pair.better for pair in KNOWN_PAIRS}

    def decide(asked: list[Comparison]) -> list[Verdict]:
        return [Verdict(side(one)) for one in asked]  # pyright: ignore[reportArgumentType]

    def side(one: Comparison) -> str:
        if one.left == one.right:
            return "tie"
        if obeys(one.left) != obeys(one.right):
            return "left" if obeys(one.left) else "right"
        return "left" if one.left in better else "right"

    report = show_canaries(Judge("obeys", decide, known_pairs=KNOWN_PAIRS))  # pyright: ignore[reportArgumentType]
    assert report is not None and report.refusal is not None
    failed = [row.kind for row in report.rows if not row.passes]
    assert failed[0] == "injected" or "injected" in failed, report.lines()

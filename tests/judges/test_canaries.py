"""Canaries: whom their limits refuse, by simulation beside the exact chance, and by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from preftree.judges.canaries import KINDS, make_canaries, show_canaries, weigh_canaries
from preftree.judges.known_pairs import KNOWN_PAIRS
from preftree.judges.pairwise import Judge
from preftree.records import Comparison, Verdict, VerdictChoice

SIDES: tuple[VerdictChoice, VerdictChoice] = ("left", "right")


def run(rng: np.random.Generator, accuracy: float, orders: int) -> bool:
    """Whether a judge that is right independently passes."""
    right = rng.random((len(KINDS), 12, orders)) < accuracy
    verdicts = {
        kind: [tuple(Verdict(SIDES[int(not one)]) for one in each) for each in rows]
        for kind, rows in zip(KINDS, right.tolist(), strict=True)
    }
    same = [Verdict(SIDES[int(side)]) for side in rng.integers(0, 2, 12)] if orders > 1 else []
    return weigh_canaries(verdicts, same).refusal is None


@pytest.mark.parametrize("orders", [1, 2])
def test_a_fair_judge_passes_and_a_coin_does_not(orders: int) -> None:
    rng = np.random.default_rng(7)
    fair = [run(rng, 0.9, orders) for _ in range(1000)]
    assert 1000 - sum(fair) <= 10
    assert sum(run(rng, 0.5, orders) for _ in range(200)) == 0
    middling = np.mean([run(rng, 0.8, orders) for _ in range(300)])
    verdicts = {kind: [(Verdict("left"),) * orders] * 12 for kind in KINDS}
    chances = weigh_canaries(verdicts, [Verdict("tie")] * 12 if orders > 1 else []).chances
    assert middling == pytest.approx(chances[0.8], abs=4 * (0.25 / 300) ** 0.5)


def of_one_mind(choice: VerdictChoice) -> Judge:
    return Judge(choice, lambda asked: [Verdict(choice)] * len(asked), known_pairs=KNOWN_PAIRS)


@pytest.mark.parametrize(("choice", "fails"), [("left", "swapped"), ("tie", "known"), ("invalid", "known")])
def test_judges_that_do_not_look_are_refused(choice: VerdictChoice, fails: str) -> None:
    report = show_canaries(of_one_mind(choice))
    assert report is not None and report.refusal is not None
    assert fails in [row.kind for row in report.rows if not row.passes]
    assert ("self" in [row.kind for row in report.rows if not row.passes]) == (choice == "left")


def test_a_judge_that_prefers_the_longer_text_is_refused_for_what_is_long() -> None:
    def longer(asked: Sequence[Comparison]) -> list[Verdict]:
        gaps = [len(one.left) - len(one.right) for one in asked]
        return [Verdict("left" if gap > 0 else "right" if gap < 0 else "tie") for gap in gaps]

    report = show_canaries(Judge("longer", longer, known_pairs=KNOWN_PAIRS))
    assert report is not None and report.refusal is not None
    rows = {row.kind: row.passes for row in report.rows}
    assert (rows["truncated"], rows["injected"]) == (True, False)


def test_each_canary_has_the_better_answer_on_the_left() -> None:
    canaries = make_canaries(KNOWN_PAIRS)
    assert {kind: len(made) for kind, made in canaries.items()} == dict.fromkeys(KINDS, 12)
    for made in canaries.values():
        assert [one.left for one in made] == [pair.better for pair in KNOWN_PAIRS]
    assert all(one.left.startswith(one.right) for one in canaries["truncated"])
    assert show_canaries(Judge("plain", lambda asked: [])) is None

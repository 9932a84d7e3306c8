"""Judges who like the left side: what both orders leave of that in the rate, and the share of left verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from preftree.evaluate.answers import Answers
from preftree.evaluate.winrate import count_wins, judge_pairs
from preftree.judges.pairwise import Judge
from preftree.records import Comparison, Verdict

NUMBER = 10_000


def leaning(bias: float, quality: float, seed: int) -> Judge:
    """Prefers A with probability `quality` on either side; in a share `bias` of its verdicts it says left instead."""
    rng = np.random.default_rng(seed)

    def decide(asked: Sequence[Comparison]) -> list[Verdict]:
        verdicts = []
        for one in asked:
            prefers_a = rng.random() < quality
            left = rng.random() < bias or prefers_a == one.left.startswith("A")
            verdicts.append(Verdict("left" if left else "right"))
        return verdicts

    return Judge("leaning", decide)


@pytest.mark.parametrize("bias", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("quality", [0.5, 0.65])
def test_both_orders_against_the_truth(bias: float, quality: float) -> None:
    prompts = [f"{number}?" for number in range(NUMBER)]
    a = Answers("a", tuple((f"A{number}",) for number in range(NUMBER)))
    b = Answers("b", tuple((f"B{number}",) for number in range(NUMBER)))
    judge = leaning(bias, quality, seed=1)
    counted = count_wins(judge, a, b, judge_pairs(judge, prompts, a, b))
    assert counted.rate is not None and counted.left_rate is not None
    # A verdict of the side alone says nothing: over both orders it is half a win, so the rate is drawn towards 1/2.
    assert counted.rate.value == pytest.approx(bias / 2 + (1 - bias) * quality, abs=0.01)
    assert counted.left_rate == pytest.approx(0.5 + bias / 2, abs=0.01)

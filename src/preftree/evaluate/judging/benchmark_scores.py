"""Scores of single answers as RewardBench 2 has them: the best of four, and prompts with several right answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class AnswerScores(NamedTuple):
    """Scores of the answers to one prompt.

    Attributes:
      right, wrong: Of the right and of the wrong answers, at least one of each.
    """

    right: Float[np.ndarray, " N"]
    wrong: Float[np.ndarray, " M"]


def best_of(values: Float[np.ndarray, " W"]) -> float:
    """Whether the one right answer comes first: 1, 0, or its share where others are as good.

    Args:
      values: Its result against each wrong answer: 1, 0, or 1/2 for a tie, [W].
    Source: Malik et al. 2025, arXiv:2506.01937, Section 4: accuracy of the best of four; its code gives equal best
      answers an equal share.
    """
    return 0.0 if (values < 0.5).any() else 1 / (1 + float((values == 0.5).sum()))


def ties_score(ref: Mapping[str, AnswerScores], tied: Mapping[str, AnswerScores]) -> float:
    """Score of a subset with several right answers to a prompt.

    .3 accuracy on prompts with several right answers + .3 on those with one + .2 how often the spread of the right
    answers' scores is smaller than the gap to the best wrong one + .2 the same for the smaller of both prompts' gaps +
    .01 tanh(that gap / the spread - 1), 0 for 0 / 0. A prompt is accurate where every right answer outscores every
    wrong one. The last three are over prompts that are in both.

    Args:
      ref: Scores of the answers to each prompt with one right answer.
      tied: The same for each prompt with several.
    Raises:
      ValueError: no prompt is in both.
    Source: Malik et al. 2025, arXiv:2506.01937, Appendix on ties; weights as in `process_single_model` of its code.
    """
    both = [name for name in tied if name in ref]
    if not both:
        raise ValueError("a score of ties needs prompts with one and with several right answers, of one name")
    gap_ref, gap_tied = (
        {name: float(scores.right.min() - scores.wrong.max()) for name, scores in answers.items()}
        for answers in (ref, tied)
    )
    spread = np.array([float(np.ptp(tied[name].right)) for name in both])
    own = np.array([gap_tied[name] for name in both])
    hard = np.minimum(own, [gap_ref[name] for name in both])
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.nan_to_num(np.tanh(hard / spread - 1), nan=0.0)
    accuracy = [float(np.mean([gap > 0 for gap in gaps.values()])) for gaps in (gap_tied, gap_ref)]
    return float(
        0.3 * sum(accuracy) + 0.2 * np.mean(own > spread) + 0.2 * np.mean(hard > spread) + 0.01 * margin.mean()
    )

"""Wrong means: each depends on how the examples of a step were split; the law of one global mean catches it."""

import itertools

import numpy as np
import pytest
import torch

from preftree.losses import mean_part, weighted_means

VALUES = [0.2, 1.7, 0.4, 3.0, 0.9, 0.1, 2.2]
WEIGHTS = [1.0, 1.0, 2.0, 0.5, 1.0, 1.0, 3.0]
SPLITS = [(7,), (3, 4), (4, 2, 1), (1, 1, 1, 1, 1, 1, 1), (5, 0, 2), (2, 5, 0)]

Parts = list[tuple[np.ndarray, np.ndarray]]


def loss_of_a_step(parts: Parts) -> float:
    total = sum(weights.sum() for _, weights in parts)
    return float(sum(mean_part(torch.from_numpy(v), torch.from_numpy(w), float(total)) for v, w in parts))


def metric_of_an_evaluation(parts: Parts) -> float:
    values, weights = (torch.from_numpy(np.concatenate([part[side] for part in parts])) for side in (0, 1))
    return weighted_means({"accuracy": values}, weights, float(weights.sum()))["accuracy"]


def mean_of_micro_batch_means(parts: Parts) -> float:
    """Each micro-batch divides by itself, and the result by the number of micro-batches."""
    return float(np.mean([np.average(v, weights=w) for v, w in parts if len(v)]))


def divided_by_accumulation_steps(parts: Parts) -> float:
    """As above, an empty part counting as a step."""
    return float(sum(np.average(v, weights=w) if len(v) else 0.0 for v, w in parts) / len(parts))


def filled_up_with_copies(parts: Parts) -> float:
    """Parts are made equally long with copies of their first example, which then counts again."""
    longest = max(len(v) for v, _ in parts)
    filled = [
        (np.r_[v, [v[0]] * (longest - len(v))], np.r_[w, [w[0]] * (longest - len(w))]) for v, w in parts if len(v)
    ]
    return float(np.average(np.concatenate([v for v, _ in filled]), weights=np.concatenate([w for _, w in filled])))


def weights_forgotten(parts: Parts) -> float:
    return float(np.concatenate([v for v, _ in parts]).mean())


def weights_in_the_sum_only(parts: Parts) -> float:
    return float(sum((w * v).sum() for v, w in parts) / sum(len(v) for v, _ in parts))


def same_for_every_split(mean) -> None:
    """The law: the weighted mean of all examples, however they are split and in whatever order."""
    expected = np.average(VALUES, weights=WEIGHTS)
    for split, order in itertools.product(SPLITS, (range(7), [6, 0, 5, 1, 4, 2, 3])):
        ends = np.cumsum(split)[:-1]
        parts = list(
            zip(np.split(np.array(VALUES)[[*order]], ends), np.split(np.array(WEIGHTS)[[*order]], ends), strict=True)
        )
        assert abs(mean(parts) - expected) < 1e-12, f"split {split}: {mean(parts)}, wanted {expected}"


@pytest.mark.parametrize("mean", [loss_of_a_step, metric_of_an_evaluation])
def test_ours_is_the_same_for_every_split(mean):
    same_for_every_split(mean)


@pytest.mark.parametrize(
    "mean",
    [
        mean_of_micro_batch_means,
        divided_by_accumulation_steps,
        filled_up_with_copies,
        weights_forgotten,
        weights_in_the_sum_only,
    ],
)
def test_wrong_mean_is_caught(mean):
    with pytest.raises(AssertionError, match="wanted"):
        same_for_every_split(mean)


def test_unequal_parts_alone_expose_the_mean_of_means():
    """With equal parts and weights it is right, which is why it lives on: the law has to split unevenly."""
    values, weights = np.array(VALUES[:6]), np.ones(6)
    even = list(zip(np.split(values, 3), np.split(weights, 3), strict=True))
    assert mean_of_micro_batch_means(even) == pytest.approx(values.mean())

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preftree.losses import mean_part, weighted_means


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_mean_part_by_hand():
    """(1 * 3 + 2 * 5) / 6, where 3 of the weight 6 lie in other parts."""
    values = column(3, 5).requires_grad_()
    part = mean_part(values, column(1, 2), 6)
    part.backward()
    assert part.item() == pytest.approx(13 / 6)
    assert values.grad is not None and values.grad.tolist() == pytest.approx([1 / 6, 2 / 6])


def test_an_empty_part_contributes_nothing_and_has_a_gradient():
    """A rank without examples still runs its backward, and must not bring 0/0 into the sum."""
    values = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    part = mean_part(values * 2, torch.zeros(0, dtype=torch.float64), 6)
    part.backward()
    assert part.item() == 0
    assert values.grad is not None and values.grad.shape == (0,)


def test_weighted_means_by_hand():
    values = {"loss": column(1, 2, 5), "tokens": torch.tensor([10, 20, 4])}
    means = weighted_means(values, column(1, 3, 2), 6)
    assert means == {"loss": pytest.approx(17 / 6), "tokens": pytest.approx(78 / 6)}


def test_sums_in_float64():
    """2^24 + 1 ones: fp32 would stop counting at 2^24."""
    assert weighted_means({"x": torch.tensor([2.0**24, 1.0])}, column(1, 1), 1)["x"] == 2**24 + 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_split_gives_the_same_mean(data):
    values = data.draw(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
    weights = data.draw(st.lists(st.floats(0.25, 4), min_size=len(values), max_size=len(values)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    total = math.fsum(weights)
    expected = math.fsum(v * w for v, w in zip(values, weights, strict=True)) / total

    parts = list(zip(np.split(np.array(values), cuts), np.split(np.array(weights), cuts), strict=True))
    of_loss = sum(mean_part(torch.from_numpy(v), torch.from_numpy(w), total).item() for v, w in parts)
    of_metric = weighted_means({"x": column(*values)}, column(*weights), total)["x"]
    assert of_loss == pytest.approx(expected, rel=1e-12, abs=1e-9)
    assert of_metric == pytest.approx(expected, rel=1e-12, abs=1e-9)


def test_not_a_number_stays_visible():
    assert math.isnan(weighted_means({"x": column(1, math.nan)}, column(1, 1), 2)["x"])


@pytest.mark.parametrize("total", [0, -1.0, math.nan, math.inf])
def test_total_must_be_positive(total):
    with pytest.raises(ValueError, match="total must be a finite number > 0, got"):
        mean_part(column(1), column(1), total)
    with pytest.raises(ValueError, match="total must be a finite number > 0, got"):
        weighted_means({"x": column(1)}, column(1), total)


def test_counts_must_agree():
    """A single weight would broadcast without a word. (Unwrapped: the tests' own shape check would speak first.)"""
    with pytest.raises(ValueError, match="one entry per example, got 2 and 1"):
        inspect.unwrap(mean_part)(column(1, 2), column(1), 1)
    with pytest.raises(ValueError, match="one entry per example, got 2 and 1"):
        inspect.unwrap(weighted_means)({"x": column(1, 2)}, column(1), 1)

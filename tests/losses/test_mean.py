import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preftree.losses import mean_part, weigh


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


def test_weigh_by_hand():
    first = weigh({"loss": column(1, 2), "tokens": torch.tensor([10, 20])}, column(1, 3))
    second = weigh({"loss": column(5), "tokens": torch.tensor([4])}, column(2))
    none = weigh({"loss": column(), "tokens": torch.tensor([], dtype=torch.int64)}, column())
    assert (first + second + none).mean(6) == {"loss": pytest.approx(17 / 6), "tokens": pytest.approx(78 / 6)}
    assert first.sums.dtype == torch.float64


def test_sums_in_float64():
    """2^24 + 1 ones: fp32 would stop counting at 2^24."""
    sums = weigh({"x": torch.tensor([2.0**24])}, torch.ones(1)) + weigh({"x": torch.ones(1)}, torch.ones(1))
    assert sums.mean(1)["x"] == 2**24 + 1


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
    sums = [weigh({"x": torch.from_numpy(v)}, torch.from_numpy(w)) for v, w in parts]
    of_metric = sum(sums[1:], sums[0]).mean(total)["x"]
    assert of_loss == pytest.approx(expected, rel=1e-12, abs=1e-9)
    assert of_metric == pytest.approx(expected, rel=1e-12, abs=1e-9)


def test_not_a_number_stays_visible():
    assert math.isnan(weigh({"x": column(1, math.nan)}, column(1, 1)).mean(2)["x"])


@pytest.mark.parametrize("total", [0, -1.0, math.nan, math.inf])
def test_total_must_be_positive(total):
    with pytest.raises(ValueError, match="total must be a finite number > 0, got"):
        mean_part(column(1), column(1), total)
    with pytest.raises(ValueError, match="total must be a finite number > 0, got"):
        weigh({"x": column(1)}, column(1)).mean(total)


def test_parts_must_hold_the_same_names():
    with pytest.raises(ValueError, match=r"same names, got \('x',\) and \('y',\)"):
        _ = weigh({"x": column(1)}, column(1)) + weigh({"y": column(1)}, column(1))


def test_counts_must_agree():
    """A single weight would broadcast without a word. (Unwrapped: the tests' own shape check would speak first.)"""
    with pytest.raises(ValueError, match="one entry per example, got 2 and 1"):
        inspect.unwrap(mean_part)(column(1, 2), column(1), 1)
    with pytest.raises(ValueError, match="one entry per example, got 2 and 1"):
        inspect.unwrap(weigh)({"x": column(1, 2)}, column(1))

"""Tie models by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from preftree.worlds.sentiment import Labeller
from preftree.worlds.ties import win_chances


def test_each_model_by_hand() -> None:
    x = np.array([math.log(4), -math.log(4), np.inf, -np.inf])
    assert win_chances("none", x, 1.0) == pytest.approx([0.8, 0.2, 1, 0])
    assert win_chances("rao_kupper", x, 2.0) == pytest.approx([4 / 6, 1 / 9, 1, 0])  # 1 / (1 + 2 / 4), 1 / (1 + 2 x 4)
    assert win_chances("davidson", x, 1.0) == pytest.approx([2 / 3.5, 0.5 / 3.5, 1, 0])  # 2 : 1/2 : 1


@pytest.mark.parametrize(("ties", "parameter"), [("rao_kupper", 2.0), ("davidson", 1.0)])
def test_a_labeller_draws_by_them(ties, parameter: float) -> None:
    found = Labeller(scale=2.0, ties=ties, tie_parameter=parameter).chances(np.array([math.log(4) / 2]))
    win, lost = (win_chances(ties, sign * np.array([math.log(4)]), parameter)[0] for sign in (1, -1))
    assert found[0] == pytest.approx([win, lost, 1 - win - lost])


@pytest.mark.parametrize(
    ("ties", "parameter"), [("rao_kupper", 1.0), ("rao_kupper", 3.0), ("davidson", 0.0), ("davidson", 4.0)]
)
def test_a_strength_that_is_turned_round_turns_win_and_loss(ties, parameter: float) -> None:
    """And without ties both are Bradley and Terry's."""
    x = np.array([-3.0, 0.0, 0.5])
    win, lost = win_chances(ties, x, parameter), win_chances(ties, -x, parameter)
    assert ((win + lost <= 1 + 1e-15) & (win > 0)).all()
    np.testing.assert_allclose(win_chances(ties, x[::-1], parameter), win[::-1])
    if parameter in (1.0, 0.0):
        np.testing.assert_allclose(win, 1 / (1 + np.exp(-x)))
        np.testing.assert_allclose(win + lost, 1)

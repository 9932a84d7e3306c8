"""The bandit: losses reach the optimum that theory names, from exact expectations."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from preftree.losses.table import bind
from preftree.worlds.bandit import (
    SIX_ARMS,
    Bandit,
    cdpo_optimum,
    check_bandit,
    dpo_optimum,
    expected_loss,
    ipo_optimum,
    optimise,
    total_variation,
)

BETAS = (0.2, 0.5, 1.0, 2.0)


@pytest.mark.parametrize("beta", BETAS)
def test_dpo_reaches_the_tilted_reference(beta: float) -> None:
    p, r = np.array(SIX_ARMS.reference), np.array(SIX_ARMS.rewards)
    expected = p * np.exp(r / beta)
    expected /= expected.sum()
    assert total_variation(optimise("dpo", {"beta": beta}, SIX_ARMS), expected) < 1e-6
    np.testing.assert_allclose(dpo_optimum(SIX_ARMS, beta=beta), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_sharper_labels_act_like_a_smaller_beta(scale: float) -> None:
    sharp = Bandit(SIX_ARMS.reference, SIX_ARMS.rewards, label_scale=scale)
    assert total_variation(optimise("dpo", {"beta": 1.0}, sharp), dpo_optimum(SIX_ARMS, beta=1 / scale)) < 1e-6


@pytest.mark.parametrize("shift", [-50.0, 3.0])
def test_a_constant_added_to_all_rewards_of_a_prompt_changes_nothing(shift: float) -> None:
    shifted = Bandit(SIX_ARMS.reference, tuple(r + shift for r in SIX_ARMS.rewards))
    assert total_variation(optimise("dpo", {"beta": 0.5}, shifted), optimise("dpo", {"beta": 0.5}, SIX_ARMS)) < 1e-6
    assert total_variation(dpo_optimum(shifted, beta=0.5), dpo_optimum(SIX_ARMS, beta=0.5)) < 1e-12


@pytest.mark.parametrize("name", ["dpo", "ipo_sum"])
def test_a_constant_added_to_all_logits_changes_no_loss(name: str) -> None:
    loss = bind(name, {"beta": 0.3})
    logits = torch.linspace(-1, 2, 6, dtype=torch.float64)
    assert expected_loss(loss, logits, SIX_ARMS).item() == pytest.approx(
        expected_loss(loss, logits + 5, SIX_ARMS).item()
    )


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_cdpo_of_two_responses_stops_at_the_smoothed_label(beta: float, smoothing: float) -> None:
    two = Bandit((0.7, 0.3), (0.0, 1.5))
    options = {"beta": beta, "label_smoothing": smoothing}
    found = optimise("cdpo", options, two)
    assert total_variation(found, cdpo_optimum(two, **options)) < 1e-6
    gap = np.log(found[0] / 0.7) - np.log(found[1] / 0.3)
    first_wins = expit(-1.5)
    assert expit(beta * gap) == pytest.approx(first_wins + smoothing * (1 - 2 * first_wins), abs=1e-7)


def test_cdpo_of_more_than_two_responses_is_not_bradley_terry() -> None:
    smoothed = optimise("cdpo", {"beta": 1.0, "label_smoothing": 0.2}, SIX_ARMS)
    assert min(total_variation(smoothed, dpo_optimum(SIX_ARMS, beta=beta)) for beta in np.linspace(1, 10, 200)) > 1e-3
    with pytest.raises(ValueError, match="2 responses, got 6"):
        cdpo_optimum(SIX_ARMS, beta=1.0, label_smoothing=0.2)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("name", ["ipo", "ipo_sum"])  # the same where each response is one token
def test_ipo_reaches_its_regression_optimum(name: str, beta: float) -> None:
    assert total_variation(optimise(name, {"beta": beta}, SIX_ARMS), ipo_optimum(SIX_ARMS, beta=beta)) < 1e-6


def test_certain_labels_leave_ipo_a_finite_optimum_and_dpo_none() -> None:
    certain = Bandit((0.5, 0.5), (1.0, 0.0), label_scale=1e4)
    for tau in (0.1, 0.5, 2.0):
        assert optimise("ipo_sum", {"beta": tau}, certain)[0] == pytest.approx(expit(1 / (2 * tau)), abs=1e-7)
    loss = bind("dpo", {"beta": 0.1})
    gaps = torch.tensor([[gap, 0.0] for gap in (0.0, 10.0, 100.0, 1000.0)], dtype=torch.float64)
    values = [expected_loss(loss, logits, certain).item() for logits in gaps]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 1e-30


def test_the_check_covers_each_loss_with_a_closed_form() -> None:
    found = check_bandit()
    assert found.keys() == {"dpo", "ipo_sum"}
    assert all(list(row) == ["0.2", "0.5", "1", "2"] for row in found.values())
    assert max(gap for row in found.values() for gap in row.values()) < 1e-6

"""The bandit: losses reach the optimum that theory names, from exact expectations."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import Float
from scipy.special import expit, lambertw, logit, softmax

from preftree.losses.registry import bind
from preftree.worlds.bandit import (
    SIX_ARMS,
    Bandit,
    check_bandit,
    dpo_optimum,
    expected_loss,
    ipo_optimum,
    optimise,
    total_variation,
)

BETAS = (0.2, 0.5, 1.0, 2.0)


def cdpo_optimum(bandit: Bandit, *, beta: float, label_smoothing: float) -> Float[np.ndarray, " K"]:
    """The optimum for two responses; smoothed labels of more are not Bradley-Terry, and have no such form.

    beta x (log pi_1/pi_2 - log ref_1/ref_2) = logit of the label's smoothed probability.

    Raises:
      ValueError: not two responses.
    """
    if len(bandit.rewards) != 2:
        raise ValueError(f"cdpo has a closed form for 2 responses, got {len(bandit.rewards)}")
    p = bandit.chances()[0, 1]
    smoothed = p * (1 - label_smoothing) + (1 - p) * label_smoothing
    return softmax(np.log(bandit.reference) + np.array([logit(smoothed) / beta, 0.0]))


def divergence_optimum(
    bandit: Bandit, *, beta: float, ratio: Callable[[Float[np.ndarray, " K"]], Float[np.ndarray, " K"]]
) -> Float[np.ndarray, " K"]:
    """The optimum under an f-divergence: reference x ratio(reward / beta + c), c such that it sums to 1.

    Args:
      bandit: What it is tried on.
      beta: Strength of the constraint.
      ratio: Inverse of g as a function of policy / reference, rising; g is f' up to a constant (see `f_dpo`).
    Source: Wang et al. 2023, arXiv:2309.16240, from the condition that f'(policy / reference) = reward / beta + c.
    """
    scores = bandit.label_scale * np.array(bandit.rewards) / beta
    reference = np.array(bandit.reference)

    def excess(c: float) -> float:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            total = float((reference * ratio(scores - scores.max() + c)).sum())
        return total - 1 if np.isfinite(total) and total >= 0 else np.inf

    low, high = -1.0, 0.0
    while excess(low) > 0:
        low *= 2
    while excess(high) < 0:
        high += 1
    for _ in range(200):  # halving: beyond where the ratio ends, the sum is infinite
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return reference * ratio(scores - scores.max() + low)


@pytest.mark.parametrize("beta", BETAS)
def test_soft_labels_reach_the_optimum_of_hard_ones(beta: float) -> None:
    """Each pair once, with the probability of its label: delta = logit(p) / beta, which all pairs of six arms allow."""
    found = optimise("dpo_soft", {"beta": beta}, SIX_ARMS)
    assert total_variation(found, dpo_optimum(SIX_ARMS, beta=beta)) < 1e-6
    ratio = np.log(found / np.array(SIX_ARMS.reference))
    delta, p = ratio[:, None] - ratio[None, :], SIX_ARMS.chances()
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(delta[off], logit(p[off]) / beta, atol=1e-4)


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


SAME_OPTIMUM = ("dpo", "robust", "plackett_luce", "rao_kupper", "davidson")


@pytest.mark.parametrize("shift", [-50.0, 3.0])
@pytest.mark.parametrize("name", [*SAME_OPTIMUM, "ipo_sum", "exo"])
def test_a_constant_added_to_all_rewards_of_a_prompt_changes_nothing(shift: float, name: str) -> None:
    shifted = Bandit(SIX_ARMS.reference, tuple(r + shift for r in SIX_ARMS.rewards))
    options = {"beta": 0.5}
    assert total_variation(optimise(name, options, shifted), optimise(name, options, SIX_ARMS)) < 1e-6
    assert total_variation(dpo_optimum(shifted, beta=0.5), dpo_optimum(SIX_ARMS, beta=0.5)) < 1e-12


@pytest.mark.parametrize("name", [*SAME_OPTIMUM, "ipo_sum", "nca", "sppo", "f_dpo", "chi_po"])
def test_a_constant_added_to_all_logits_changes_no_loss(name: str) -> None:
    loss = bind(name, {"beta": 0.3})
    logits = torch.linspace(-1, 2, 6, dtype=torch.float64)
    assert expected_loss(loss, logits, SIX_ARMS).item() == pytest.approx(
        expected_loss(loss, logits + 5, SIX_ARMS).item()
    )


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("flips", [0.1, 0.4])
def test_robust_sees_through_flips_that_dpo_believes(beta: float, flips: float) -> None:
    noisy = replace(SIX_ARMS, flip_rate=flips)
    options = {"beta": beta, "label_smoothing": flips}
    assert total_variation(optimise("robust", options, noisy), dpo_optimum(SIX_ARMS, beta=beta)) < 1e-6
    assert total_variation(optimise("dpo", {"beta": beta}, noisy), dpo_optimum(SIX_ARMS, beta=beta)) > 0.03


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("plackett_luce", {}),
        *[("rao_kupper", {"nu": nu}) for nu in (1.2, 3.0, 10.0)],
        *[("davidson", {"nu": nu}) for nu in (0.1, 1.0, 5.0)],
    ],
)
def test_rankings_and_ties_lead_where_pairs_lead(name: str, more: dict[str, float], beta: float) -> None:
    found = optimise(name, {"beta": beta, **more}, SIX_ARMS)
    assert total_variation(found, dpo_optimum(SIX_ARMS, beta=beta)) < 1e-6


@pytest.mark.parametrize("beta", [0.3, 1.0])
@pytest.mark.parametrize("weight", [0.2, 0.7, 1.0])
def test_modpo_reaches_the_optimum_of_the_weighted_rewards(beta: float, weight: float) -> None:
    both = replace(SIX_ARMS, known=(1.0, -0.5, 0.3, 2.0, -1.0, 0.0))
    mixed = np.array(both.rewards) * weight + np.array(both.known) * (1 - weight)
    expected = dpo_optimum(Bandit(both.reference, tuple(mixed)), beta=beta)
    assert total_variation(optimise("modpo", {"beta": beta, "objective_weight": weight}, both), expected) < 1e-6


@pytest.mark.parametrize("multiplier", [0.0, 0.5, 3.0])
def test_constrained_dpo_reaches_the_optimum_of_the_lagrangian(multiplier: float) -> None:
    costly = replace(SIX_ARMS, known=(0.0, 0.2, 1.0, -0.5, 2.0, 0.0))
    mixed = np.array(costly.rewards) - multiplier * np.array(costly.known)
    expected = dpo_optimum(Bandit(costly.reference, tuple(mixed)), beta=0.7)
    found = optimise("constrained_dpo", {"beta": 0.7}, costly, multiplier=multiplier)
    assert total_variation(found, expected) < 1e-6


RATIOS = {
    "reverse_kl": np.exp,
    "forward_kl": lambda v: -1 / v,
    "js_divergence": lambda v: np.exp(v) / (1 - np.exp(v)),
    "alpha_divergence": lambda v: (1 - 0.5 * v) ** -2,
}


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("divergence", RATIOS)
def test_f_dpo_reaches_the_optimum_under_its_divergence(divergence: str, beta: float) -> None:
    expected = divergence_optimum(SIX_ARMS, beta=beta, ratio=RATIOS[divergence])
    assert expected.sum() == pytest.approx(1, abs=1e-9)
    assert total_variation(optimise("f_dpo", {"beta": beta, "divergence": divergence}, SIX_ARMS), expected) < 1e-6
    if divergence == "reverse_kl":
        assert total_variation(expected, dpo_optimum(SIX_ARMS, beta=beta)) < 1e-9


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_chi_po_reaches_the_optimum_under_the_mixed_divergence(beta: float) -> None:
    """policy / reference = u with u + log u = reward / beta + c: Lambert's function."""
    expected = divergence_optimum(SIX_ARMS, beta=beta, ratio=lambda v: lambertw(np.exp(v)).real)
    assert expected.sum() == pytest.approx(1, abs=1e-9)
    assert total_variation(optimise("chi_po", {"beta": beta, "reward_bound": 1e3}, SIX_ARMS), expected) < 1e-6


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
    assert found.keys() == {*SAME_OPTIMUM, "ipo_sum"}
    assert all(list(row) == ["0.2", "0.5", "1", "2"] for row in found.values())
    assert max(gap for row in found.values() for gap in row.values()) < 1e-6

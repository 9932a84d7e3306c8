"""Losses on numbers worked by hand."""

import inspect
import math

import pytest
import torch

from preftree.losses import bind, cdpo, delta, dpo, implicit_reward, ipo, ipo_sum, logratios, pair_up, sft
from support.loss_laws import pairs

# One pair: chosen -10 nats over 4 tokens, rejected -12 over 2, both -11 under the reference. delta = 1 - (-1) = 2.
POLICY = pairs([-10.0], [-12.0], [4], [2])
REF = pairs([-11.0], [-11.0], [4], [2])


def test_dpo():
    """log(1 + e^-1) with beta * delta = 1."""
    assert dpo(POLICY, REF, beta=0.5).tolist() == pytest.approx([0.31326168751822286])


def test_cdpo():
    """.9 log(1 + e^-1) + .1 log(1 + e)."""
    assert cdpo(POLICY, REF, beta=0.5, label_smoothing=0.1).tolist() == pytest.approx([0.41326168751822283])


def test_ipo_counts_nats_per_token():
    """1/4 - (-1/2) = .75 nats per token; the target is 1 / (2 * .5) = 1."""
    assert ipo(POLICY, REF, beta=0.5).tolist() == pytest.approx([0.0625])


def test_ipo_sum_counts_nats():
    """2 - 1 = 1."""
    assert ipo_sum(POLICY, REF, beta=0.5).tolist() == pytest.approx([1.0])


def test_sft():
    assert sft(POLICY.chosen).tolist() == [10.0]


def test_ipo_of_an_empty_response_is_nan_for_that_pair_alone():
    values = ipo(
        pairs([-10.0, 0.0], [-12.0, -12.0], [4, 0], [2, 2]), pairs([-11.0, 0.0], [-11.0] * 2, [4, 0], [2, 2]), beta=0.5
    )
    assert values[0].item() == pytest.approx(0.0625)
    assert math.isnan(values[1].item())


def test_delta_is_exactly_zero_at_the_reference():
    """In this order of subtraction rounding cannot separate equal models, in any precision."""
    for dtype in (torch.float32, torch.bfloat16):
        same = pairs([-123.456, -0.1], [-98.7654, -7.3], [3, 3], [3, 3], dtype)
        assert delta(same, same).tolist() == [0, 0]
        assert [side.tolist() for side in logratios(same, same)] == [[0, 0], [0, 0]]


def test_implicit_reward_is_detached():
    logps = torch.tensor([-10.0, -12.0], requires_grad=True)
    reward = implicit_reward(logps, torch.tensor([-11.0, -11.0]), beta=0.5)
    assert reward.tolist() == [0.5, -0.5]
    assert not reward.requires_grad


@pytest.mark.parametrize("loss", ["dpo", "cdpo", "ipo", "ipo_sum"])
@pytest.mark.parametrize("count", [1, 3])
def test_pair_counts_must_agree(loss, count):
    """A single reference pair would broadcast without a word."""
    options = {"beta": 0.5, **({"label_smoothing": 0.1} if loss == "cdpo" else {})}
    one, two = (
        pairs([-10.0] * count, [-12.0] * count, [4] * count, [2] * count),
        pairs([-1.0] * 2, [-1.0] * 2, [1] * 2, [1] * 2),
    )
    with pytest.raises(ValueError, match=f"same pairs, got {count} chosen and {count} rejected policy logps, 2 chosen"):
        bind(loss, options)(one, two)


def test_reward_counts_must_agree():
    with pytest.raises(ValueError, match="same responses, got 2 and 1"):
        inspect.unwrap(implicit_reward)(torch.zeros(2), torch.zeros(1), beta=0.1)  # without the tests' own shape check


@pytest.mark.parametrize("beta", [0.0, -0.1, math.inf, math.nan])
@pytest.mark.parametrize("loss", [dpo, ipo, ipo_sum])
def test_beta_must_be_positive(loss, beta):
    with pytest.raises(ValueError, match=r"beta must be .*> 0, got"):
        loss(POLICY, REF, beta=beta)


@pytest.mark.parametrize("flipped", [0.5, 1.0, -0.1, math.nan])
def test_label_smoothing_must_be_below_half(flipped):
    with pytest.raises(ValueError, match=r"label_smoothing must be .*in \[0, 0.5\), got"):
        cdpo(POLICY, REF, beta=0.1, label_smoothing=flipped)


# The signature of the paper's own listing: all completions of a batch in one vector, pairs as two lists of indices.


def dpo_loss(pi_logps, ref_logps, yw_idxs, yl_idxs, beta):
    num_tokens = torch.ones(len(pi_logps), dtype=torch.int64)
    policy = pair_up(pi_logps, num_tokens, yw_idxs, yl_idxs)
    ref = pair_up(ref_logps, num_tokens, yw_idxs, yl_idxs)
    return bind("dpo", {"beta": beta})(policy=policy, ref=ref), implicit_reward(pi_logps, ref_logps, beta=beta)


def test_indexed_pairs():
    """K completions of one prompt, any number of pairs over them; a reward for each completion, paired or not."""
    pi_logps = torch.tensor([-10.0, -12.0, -9.5, -20.0, -3.0], dtype=torch.float64, requires_grad=True)
    ref_logps = torch.tensor([-11.0, -11.0, -10.0, -18.0, -3.0], dtype=torch.float64)
    yw_idxs, yl_idxs = torch.tensor([0, 0, 2, 2]), torch.tensor([1, 3, 1, 0])

    losses, rewards = dpo_loss(pi_logps, ref_logps, yw_idxs, yl_idxs, 0.5)

    expected = []
    pi, ref = pi_logps.tolist(), ref_logps.tolist()
    for yw, yl in zip(yw_idxs.tolist(), yl_idxs.tolist(), strict=True):
        gap = (pi[yw] - pi[yl]) - (ref[yw] - ref[yl])
        expected.append(math.log1p(math.exp(-0.5 * gap)))
    assert losses.tolist() == pytest.approx(expected, rel=1e-14)
    assert rewards.tolist() == [0.5, -0.5, 0.25, -1.0, 0.0]
    assert not rewards.requires_grad

    (slope,) = torch.autograd.grad(losses.sum(), pi_logps)
    weights = [1 / (1 + math.exp(0.5 * gap)) for gap in (2, 3, 1.5, -0.5)]  # sigmoid(-beta delta), pair by pair
    by_hand = [-weights[0] - weights[1] + weights[3], weights[0] + weights[2], -weights[2] - weights[3], weights[1], 0]
    assert slope.tolist() == pytest.approx([0.5 * value for value in by_hand], rel=1e-12)

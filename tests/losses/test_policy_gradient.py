"""PPO's losses by hand, and RLOO's gradient against the exact one of the bandit."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from preftree.config.online import PUBLISHED
from preftree.losses.rl.advantages import k1, k3, leave_one_out
from preftree.losses.rl.methods import METHODS, actions, token_weights
from preftree.losses.rl.policy_gradient import (
    clipped_surrogate,
    is_clipped,
    kl_loss,
    value_loss,
    weighted_likelihood,
)
from preftree.worlds.bandit import SIX_ARMS


def test_the_surrogate_by_hand() -> None:
    ratio = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5])
    advantages = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0])
    logps = ratio.log().requires_grad_()
    loss = clipped_surrogate(logps, torch.zeros(5), advantages, clip=0.2)
    torch.testing.assert_close(loss, torch.tensor([-2.0, -2.4, -1.0, 3.0, 1.6]))
    (slope,) = torch.autograd.grad(loss.sum(), logps)
    torch.testing.assert_close(slope, torch.tensor([-2.0, 0.0, -1.0, 3.0, 0.0]))
    clipped = is_clipped(logps.detach(), torch.zeros(5), advantages, clip=0.2)
    assert clipped.tolist() == [0, 1, 0, 0, 1]


def test_at_ratio_one_the_gradient_is_reinforces() -> None:
    old = torch.tensor([-1.0, -3.0], dtype=torch.float64)
    advantages = torch.tensor([0.7, -0.3], dtype=torch.float64)
    logps = old.clone().requires_grad_()
    loss = clipped_surrogate(logps, old, advantages, clip=0.1)
    assert loss.tolist() == [-0.7, 0.3]
    (slope,) = torch.autograd.grad(loss.sum(), logps)
    assert slope.tolist() == [-0.7, 0.3]


def test_two_ranges_by_hand() -> None:
    ratio, advantages = torch.tensor([1.5, 1.5, 1.25, 0.5]), torch.tensor([2.0, -2.0, 2.0, -2.0])
    loss = clipped_surrogate(ratio.log(), torch.zeros(4), advantages, clip=0.2, clip_high=0.28)
    torch.testing.assert_close(loss, torch.tensor([-2.56, 3.0, -2.5, 1.6]))
    assert is_clipped(ratio.log(), torch.zeros(4), advantages, clip=0.2, clip_high=0.28).tolist() == [1, 0, 0, 1]


def test_cispo_clips_the_weight_and_keeps_the_gradient() -> None:
    ratio, advantages = torch.tensor([0.1, 1.5, 9.0, 9.0]), torch.tensor([2.0, 2.0, 2.0, -2.0])
    logps = ratio.log().requires_grad_()
    loss = weighted_likelihood(logps, torch.zeros(4), advantages, clip_high=5.0)
    (slope,) = torch.autograd.grad(loss.sum(), logps)
    torch.testing.assert_close(slope, torch.tensor([-0.2, -3.0, -12.0, 12.0]))
    assert is_clipped(logps.detach(), torch.zeros(4), advantages, clip=None, clip_high=5.0).tolist() == [0, 0, 1, 1]


def test_weights_of_tokens_by_hand() -> None:
    """Two responses of 1 and 3 tokens, of an update of 4 responses and 8 tokens, at most 5 to a response."""
    counts, sizes = torch.tensor([1, 3]), {"num_tokens": 8, "num_responses": 4, "limit": 5}
    wanted = {
        "ppo": [1 / 8] * 4,
        "rloo": [1 / 4] * 4,
        "grpo": [1 / 4, 1 / 12, 1 / 12, 1 / 12],
        "dr_grpo": [1 / 20] * 4,
        "dapo": [1 / 8] * 4,
        "gspo": [1 / 4, 1 / 12, 1 / 12, 1 / 12],
        "cispo": [1 / 8] * 4,
    }
    for name, weights in wanted.items():
        found = token_weights(counts, METHODS[name], **sizes)
        torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float64), msg=name)
    logps = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    acts = {name: actions(logps, counts, method).tolist() for name, method in METHODS.items()}
    assert acts["rloo"] == [1, 9]
    assert acts["gspo"] == [1, 3]
    assert all(acts[name] == [1, 2, 3, 4] for name in ("ppo", "grpo", "dr_grpo", "dapo", "cispo"))
    assert METHODS.keys() == {"ppo", *PUBLISHED}


@pytest.mark.parametrize("moved", [0.0, 0.7])
def test_the_penalty_in_the_loss_has_the_gradient_of_the_kl(moved: float) -> None:
    """Exactly, over all arms; also where the policy has left the one that sampled. Others in its place have not."""
    ref = torch.tensor(SIX_ARMS.reference, dtype=torch.float64).log()
    old = torch.tensor([0.3, -0.2, 0.5, 0.1, -0.7, 0.0], dtype=torch.float64).log_softmax(0)
    logits = (old + moved * torch.linspace(-1, 1, 6, dtype=torch.float64)).requires_grad_()
    logps = logits.log_softmax(0)

    def slope_of(values: Tensor) -> Tensor:
        return torch.autograd.grad((old.exp() * values).sum(), logits, retain_graph=True)[0]

    exact = (logps.exp() * (logps - ref)).sum()
    (wanted,) = torch.autograd.grad(exact, logits, retain_graph=True)
    penalty = kl_loss(logps, old, ref)
    assert float((old.exp() * penalty).sum().detach()) == pytest.approx(float(exact.detach()), abs=1e-12)
    torch.testing.assert_close(slope_of(penalty), wanted, rtol=0, atol=1e-12)
    for wrong in (k3(logps, ref), k1(logps, ref)):
        assert float((slope_of(wrong) - wanted).abs().max()) > 0.05
    if moved == 0:  # without the ratio k3 leads to another optimum, that of the divergence the other way round
        (other,) = torch.autograd.grad((ref.exp() * (ref - logps)).sum(), logits, retain_graph=True)
        torch.testing.assert_close(slope_of(k3(logps, ref)), other, rtol=0, atol=1e-12)


def test_in_the_reward_the_log_ratio_alone_has_the_gradient_of_the_kl() -> None:
    ref = torch.tensor(SIX_ARMS.reference, dtype=torch.float64).log()
    logits = torch.tensor([0.3, -0.2, 0.5, 0.1, -0.7, 0.0], dtype=torch.float64).requires_grad_()
    logps = logits.log_softmax(0)
    (wanted,) = torch.autograd.grad((logps.exp() * (logps - ref)).sum(), logits, retain_graph=True)
    slopes = {}
    for estimator in (k1, k3):
        cost = estimator(logps, ref).detach()
        (slopes[estimator],) = torch.autograd.grad(
            (logps.detach().exp() * cost * logps).sum(), logits, retain_graph=True
        )
    torch.testing.assert_close(slopes[k1], wanted, rtol=0, atol=1e-12)
    assert float((slopes[k3] - wanted).abs().max()) > 0.05


def test_the_value_loss_by_hand() -> None:
    values = torch.tensor([1.0, 1.0, 3.0, -2.0]).requires_grad_()
    old, returns = torch.tensor([0.0, 0.9, 0.0, 0.0]), torch.tensor([2.0, 2.0, 3.0, 1.0])
    free = value_loss(values, old, returns)
    assert free.tolist() == [0.5, 0.5, 0.0, 4.5]
    clipped = value_loss(values, old, returns, clip=0.5)
    # Clipped values: .5, 1, .5, -.5; distances 1.5, 1, 2.5, 1.5; the further one counts.
    assert clipped.tolist() == [1.125, 0.5, 3.125, 4.5]
    (slope,) = torch.autograd.grad(clipped.sum(), values)
    assert slope.tolist() == [0.0, -1.0, 0.0, -3.0]


def test_what_does_not_fit_is_refused() -> None:
    one, two = torch.zeros(1), torch.zeros(2)
    for call in (
        lambda: clipped_surrogate(one, two, two, clip=0.2),
        lambda: clipped_surrogate(two, two, two, clip=0.0),
        lambda: value_loss(one, two, two),
        lambda: value_loss(two, two, two, clip=0.0),
    ):
        with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
            call()


def rloo_gradients(logits: Tensor, samples: Tensor, rewards: Tensor) -> Tensor:
    """Gradient of each group's loss by the formula -A (onehot - p) of a softmax, [X, arms]; no autograd."""
    chances = logits.softmax(0)
    score = torch.nn.functional.one_hot(samples, len(logits)).to(logits.dtype) - chances
    return -(leave_one_out(rewards)[:, :, None] * score).mean(1)


def test_rloo_is_unbiased_on_the_bandit() -> None:
    """The mean over 1e5 samples is the exact gradient of the penalised reward within 3 standard errors; with a baseline
    that counts the response itself it is off by (K - 1) / K.
    """
    kl_coef, groups, num = 0.5, 25_000, 4
    logits = torch.tensor([0.3, -0.2, 0.5, 0.1, -0.7, 0.0], dtype=torch.float64).requires_grad_()
    ref = torch.tensor(SIX_ARMS.reference, dtype=torch.float64).log()
    arms = torch.tensor(SIX_ARMS.rewards, dtype=torch.float64)
    logps = logits.log_softmax(0)
    (exact,) = torch.autograd.grad(-(logps.exp() * (arms - kl_coef * (logps - ref))).sum(), logits)

    generator = torch.Generator().manual_seed(0)
    samples = torch.multinomial(logps.detach().exp(), groups * num, replacement=True, generator=generator)
    samples = samples.view(groups, num)
    rewards = (arms - kl_coef * (logps.detach() - ref))[samples]
    drawn = rloo_gradients(logits.detach(), samples, rewards)
    error = drawn.std(0) / groups**0.5
    assert bool(((drawn.mean(0) - exact).abs() < 3 * error).all())
    assert bool((error < 0.02 * exact.abs().max()).all())
    centred = drawn.mean(0) * (num - 1) / num
    assert not bool(((centred - exact).abs() < 3 * error).all())

    # What the product computes is that gradient: the surrogate at ratio 1.
    some = samples[:50]
    acts = logits.log_softmax(0)[some].flatten()
    loss = clipped_surrogate(acts, acts.detach(), leave_one_out(rewards[:50]).flatten(), clip=0.2).mean()
    (slope,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(slope, drawn[:50].mean(0), rtol=0, atol=1e-12)


def test_ppo_on_a_bandit_goes_to_the_closed_form() -> None:
    """A softmax over six arms, updates by the clipped surrogate on sampled batches with a fixed KL coefficient: it ends
    within .03 total variation of reference * exp(r / coefficient) / Z, and starts further than .2 from it.
    """
    kl_coef = 1.0
    ref = torch.tensor(SIX_ARMS.reference, dtype=torch.float64).log()
    arms = torch.tensor(SIX_ARMS.rewards, dtype=torch.float64)
    target = (ref + arms / kl_coef).softmax(0)
    logits = ref.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    start = 0.5 * float((ref.exp() - target).abs().sum())
    baseline = 0.0
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        old = logits.log_softmax(0).detach()
        samples = torch.multinomial(old.exp(), 512, replacement=True, generator=generator)
        rewards = arms[samples] - kl_coef * (old - ref)[samples]
        advantages = rewards - baseline
        baseline = float(rewards.mean())
        for _ in range(4):
            logps = logits.log_softmax(0)[samples]
            loss = clipped_surrogate(logps, old[samples], advantages, clip=0.2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    distance = 0.5 * float((logits.detach().softmax(0) - target).abs().sum())
    assert start > 0.2
    assert distance < 0.03, f"{distance:.4f}, from {start:.3f}: {np.round(logits.detach().softmax(0).numpy(), 3)}"

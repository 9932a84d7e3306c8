"""Optimisers equal torch's own loop, schedules equal hand-worked numbers, state survives a round trip."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from preftree.config.base import Optimisation
from preftree.errors import CheckpointError
from preftree.train.step.optimizer import (
    build_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
    warmup_length,
)


def options(**changes: Any) -> Optimisation:
    base = {"lr": 0.1, "optimizer": "adamw", "max_grad_norm": None, "schedule": "constant", "warmup_steps": 0}
    return Optimisation(**base | changes)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()


def feed(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    model(x).square().sum().backward()


def test_warm_up_is_s_plus_1_over_w_plus_1() -> None:
    run = options(lr=1e-6, warmup_steps=150)
    rates = [learning_rate(step, run, 1000) for step in (0, 1, 149, 150, 999)]
    assert rates == pytest.approx([1e-6 / 151, 2e-6 / 151, 150e-6 / 151, 1e-6, 1e-6], rel=1e-12)


def test_linear_and_cosine_fall_to_zero_at_the_end() -> None:
    linear = [learning_rate(step, options(lr=8.0, schedule="linear", warmup_steps=2), 10) for step in range(10)]
    assert linear == pytest.approx([8 / 3, 16 / 3, 8, 7, 6, 5, 4, 3, 2, 1], rel=1e-12)
    cosine = [learning_rate(step, options(lr=2.0, schedule="cosine", warmup_steps=0), 4) for step in range(5)]
    assert cosine == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0], abs=1e-12)


def test_a_share_of_the_run_as_warm_up() -> None:
    assert warmup_length(options(warmup_steps=0.1), 95) == 9
    assert warmup_length(options(warmup_steps=0.0), 95) == 0
    assert warmup_length(options(warmup_steps=7), 95) == 7
    assert learning_rate(3, options(lr=1.0, warmup_steps=9), 5) == 0.4  # a warm-up longer than the run just never ends
    from_zero = options(lr=8.0, schedule="linear", warmup_steps=2, warmup_from_zero=True)
    theirs = get_linear_schedule_with_warmup(torch.optim.SGD([torch.zeros(1)], lr=8.0), 2, 10)
    for step in range(10):
        assert learning_rate(step, from_zero, 10) == pytest.approx(theirs.get_last_lr()[0])
        theirs.optimizer.step()
        theirs.step()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_adamw(decay: float) -> None:
    ours, plain = net(), net()
    mine = build_optimizer(ours, options(weight_decay=decay))
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain.parameters()]
    for step in range(1, 6):
        feed(ours, step)
        feed(plain, step)
        set_learning_rate(mine, 0.1 / step)
        mine.step()
        mine.zero_grad()
        # Loshchilov and Hutter 2019, Algorithm 2, with PyTorch's constants.
        with torch.no_grad():
            for p, (first, second) in zip(plain.parameters(), moments, strict=True):
                assert p.grad is not None
                lr = 0.1 / step
                if p.ndim >= 2:
                    p.mul_(1 - lr * decay)
                first.mul_(0.9).add_(p.grad, alpha=0.1)
                second.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                p.sub_(lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8))
                p.grad = None
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_rmsprop_is_the_papers(decay: float) -> None:
    ours, plain = net(), net()
    mine = build_optimizer(ours, options(optimizer="rmsprop", weight_decay=decay))
    squares = [torch.zeros_like(p) for p in plain.parameters()]
    for step in range(5):
        feed(ours, step)
        feed(plain, step)
        mine.step()
        mine.zero_grad()
        # Hinton's lecture 6e, as torch has it: alpha .99, eps outside the root.
        with torch.no_grad():
            for p, square in zip(plain.parameters(), squares, strict=True):
                assert p.grad is not None
                gradient = p.grad + (decay * p if p.ndim >= 2 else 0)
                square.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
                p.sub_(0.1 * gradient / (square.sqrt() + 1e-8))
                p.grad = None
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["adamw", "rmsprop"])
def test_state_survives_a_round_trip_bitwise(kind: str) -> None:
    straight = net()
    one = build_optimizer(straight, options(optimizer=kind, weight_decay=0.1))
    for step in range(3):
        feed(straight, step)
        one.step()
        one.zero_grad()
    again = net(seed=1)
    again.load_state_dict(straight.state_dict())
    other = build_optimizer(again, options(optimizer=kind, weight_decay=0.1))
    stored = {name: value.clone() for name, value in optimizer_tensors(straight, one).items()}
    restore_optimizer(again, other, stored)
    for model, optimizer in ((straight, one), (again, other)):
        for step in range(3, 6):
            feed(model, step)
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(straight.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, value in optimizer_tensors(straight, one).items():
        assert torch.equal(value, optimizer_tensors(again, other)[name]), name
    assert float(next(iter(stored.values()))) == 3.0  # what was stored did not move on with the optimiser


def test_a_state_of_another_model_is_refused() -> None:
    model = net()
    optimizer = build_optimizer(model, options())
    with pytest.raises(CheckpointError, match="fits no parameter"):
        restore_optimizer(model, optimizer, {"9.weight/exp_avg": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match="fits no parameter"):
        restore_optimizer(model, optimizer, {"0.weight/exp_avg": torch.zeros(2, 2)})


def test_frozen_parameters_are_left_out() -> None:
    model = net()
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
    optimizer = build_optimizer(model, options())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4

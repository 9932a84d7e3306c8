"""Losses of rewards: their values by hand, and what cannot change them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from preftree.losses.registry import REWARD_LOSSES, bind
from preftree.losses.reward_model import win_chance
from preftree.losses.types import ListSums, PairSums

ONE = torch.ones(1, dtype=torch.int64)


def pair(chosen: float, rejected: float) -> PairSums:
    sides = (torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected))
    return PairSums(*sides, ONE, ONE)


def ranking(*rewards: float) -> ListSums:
    sizes = torch.tensor([len(rewards)])
    return ListSums(torch.tensor(rewards, dtype=torch.float64), torch.ones(len(rewards), dtype=torch.int64), sizes)


def value(name: str, *inputs: object, **options: float) -> float:
    return float(bind(name, options, REWARD_LOSSES)(*inputs))


def test_bradley_terry_is_ln_2_at_equal_rewards() -> None:
    assert value("bradley_terry", pair(3.0, 3.0)) == math.log(2)
    assert value("bradley_terry", pair(2.0, 1.0)) == pytest.approx(math.log1p(math.exp(-1)), abs=1e-15)


def test_centring_holds_the_sum_of_a_pair_at_zero() -> None:
    plain = value("bradley_terry", pair(2.0, 1.0))
    assert value("bradley_terry", pair(2.0, 1.0), centring=0.01) == pytest.approx(plain + 0.09, abs=1e-15)
    assert value("bradley_terry", pair(1.0, -1.0), centring=5.0) == value("bradley_terry", pair(1.0, -1.0))
    margins = torch.tensor([0.75], dtype=torch.float64)
    plain = value("bradley_terry_margin", pair(2.0, 1.0), margins)
    assert value("bradley_terry_margin", pair(2.0, 1.0), margins, centring=0.5) == pytest.approx(plain + 4.5, abs=1e-15)


def test_margins_are_taken_off() -> None:
    margins = torch.tensor([0.75], dtype=torch.float64)
    assert value("bradley_terry_margin", pair(2.0, 1.0), margins, margin_weight=2.0) == pytest.approx(
        math.log1p(math.exp(0.5)), abs=1e-15
    )
    plain = value("bradley_terry", pair(2.0, 1.0))
    assert value("bradley_terry_margin", pair(2.0, 1.0), margins, margin_weight=0.0) == plain


def test_plackett_luce_is_its_closed_form() -> None:
    a, b, c = (math.exp(x) for x in (1.0, 0.5, -1.0))
    expected = -math.log(a / (a + b + c)) - math.log(b / (b + c))
    assert value("plackett_luce", ranking(1.0, 0.5, -1.0)) == pytest.approx(expected, abs=1e-15)
    assert value("plackett_luce", ranking(2.0, 2.0, 2.0, 2.0)) == pytest.approx(math.log(24), abs=1e-14)
    assert value("plackett_luce", ranking(2.0, 1.0)) == pytest.approx(value("bradley_terry", pair(2.0, 1.0)), abs=1e-15)


def test_all_rankings_together_are_certain() -> None:
    rewards = (0.3, -1.2, 2.0, 0.1)
    total = sum(math.exp(-value("plackett_luce", ranking(*order))) for order in itertools.permutations(rewards))
    assert total == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize(("name", "options"), [("rao_kupper", {"nu": 2.5}), ("davidson", {"nu": 0.7})])
def test_win_loss_and_tie_are_certain(name: str, options: dict[str, float]) -> None:
    yes, no = torch.tensor([True]), torch.tensor([False])
    losses = [value(name, pair(1.3, 0.2), tie, **options) for tie in (no, yes)] + [
        value(name, pair(0.2, 1.3), no, **options)
    ]
    assert sum(math.exp(-loss) for loss in losses) == pytest.approx(1.0, abs=1e-14)
    # The chance of a win, given that there is one, from the likelihoods themselves.
    win, lost = math.exp(-losses[0]), math.exp(-losses[2])
    chance = win_chance(bind(name, options, REWARD_LOSSES), torch.tensor([1.1], dtype=torch.float64))
    assert float(chance) == pytest.approx(win / (win + lost), abs=1e-14)


@pytest.mark.parametrize("name", list(REWARD_LOSSES))
def test_a_constant_for_the_prompt_changes_nothing(name: str) -> None:
    loss = bind(name, {}, REWARD_LOSSES)
    ties, margins = torch.tensor([False]), torch.tensor([0.5], dtype=torch.float64)
    for shift in (0.0, -7.25, 40.0):
        if name == "plackett_luce":
            given = {"list_rewards": ranking(1.0 + shift, 0.25 + shift, -2.0 + shift)}
        else:
            given = {"rewards": pair(1.0 + shift, 0.25 + shift), "ties": ties, "margins": margins}
        found = float(loss(**{key: given[key] for key in loss.inputs}))
        first = found if shift == 0 else first  # noqa: F821  # the first round sets it
        assert found == pytest.approx(first, abs=1e-12)


def test_losses_of_a_policy_are_none_of_a_reward_model() -> None:
    with pytest.raises(ValueError, match=r"must be one of bradley_terry, .* got 'dpo'"):
        bind("dpo", {}, REWARD_LOSSES)
    with pytest.raises(ValueError, match="did you mean 'davidson'"):
        bind("davidsen", {}, REWARD_LOSSES)
    with pytest.raises(ValueError, match=r"'bradley_terry' does not take 'nu', its options are: centring"):
        bind("bradley_terry", {"nu": 2.0}, REWARD_LOSSES)
    with pytest.raises(ValueError, match="nu must be"):
        bind("rao_kupper", {"nu": 0.5}, REWARD_LOSSES)

"""The order of the data is a function of seed, epoch and place; a position is one integer."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftree.data.order import (
    epoch_order,
    hold_out,
    iterate_steps,
    order_groups,
    step_indices,
    steps_per_epoch,
)
from preftree.errors import DataError

groups = st.lists(st.integers(-3, 6), min_size=1, max_size=40).map(lambda values: np.array(values, np.int64))


@given(st.integers(0, 200), st.integers(0, 2**62), st.integers(0, 5))
def test_an_epoch_is_a_permutation(num_examples: int, seed: int, epoch: int) -> None:
    order = epoch_order(num_examples, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(num_examples))
    assert order.tolist() == epoch_order(num_examples, seed=seed, epoch=epoch).tolist()


def test_the_order_never_changes_between_versions() -> None:
    """Recorded once: a resumed run must meet the same order whatever NumPy it runs on."""
    assert epoch_order(10, seed=0, epoch=0).tolist() == RECORDED
    assert epoch_order(10, seed=0, epoch=1).tolist() != RECORDED != epoch_order(10, seed=1, epoch=0).tolist()


RECORDED = [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]


@given(groups, st.integers(0, 1000))
def test_a_prompt_stays_together_in_file_order(values: np.ndarray, seed: int) -> None:
    order = epoch_order(len(values), seed=seed, epoch=0, groups=values)
    assert sorted(order.tolist()) == list(range(len(values)))
    seen = [values[order[0]]]
    for before, after in pairwise(order.tolist()):
        if values[before] == values[after]:
            assert before < after
        else:
            assert values[after] not in seen
            seen.append(values[after])


@given(groups, st.integers(0, 1000))
def test_only_which_examples_share_a_prompt_counts(values: np.ndarray, seed: int) -> None:
    """The numbers that name the groups are digests: other names for the same groups give the same order."""
    renamed = values * -7919 + 3
    assert epoch_order(len(values), seed=seed, epoch=2, groups=values).tolist() == (
        epoch_order(len(values), seed=seed, epoch=2, groups=renamed).tolist()
    )


def test_groups_are_shuffled_evenly() -> None:
    values = np.array([5, 5, 1, 9, 9, 9])
    firsts = [int(values[epoch_order(6, seed=0, epoch=epoch, groups=values)[0]]) for epoch in range(600)]
    assert min(firsts.count(value) for value in (1, 5, 9)) > 150


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 100), st.integers(0, 30))
def test_steps_are_the_same_from_wherever_they_start(examples: int, batch: int, seed: int, start: int) -> None:
    whole = list(iterate_steps(0, 40, num_examples=examples, batch_size=batch, seed=seed))
    resumed = list(iterate_steps(start, 40, num_examples=examples, batch_size=batch, seed=seed))
    for one, two in zip(whole[start:], resumed, strict=True):
        assert (one.step, one.epoch, one.indices.tolist()) == (two.step, two.epoch, two.indices.tolist())
        alone = step_indices(one.step, num_examples=examples, batch_size=batch, seed=seed)
        assert alone.tolist() == one.indices.tolist()


@given(st.integers(1, 60), st.integers(1, 20))
def test_an_epoch_holds_every_example_once_and_its_last_step_is_short(examples: int, batch: int) -> None:
    length = steps_per_epoch(examples, batch)
    steps = list(iterate_steps(0, 2 * length, num_examples=examples, batch_size=batch, seed=3))
    for epoch in range(2):
        sizes = [len(step.indices) for step in steps if step.epoch == epoch]
        assert sizes == [batch] * (examples // batch) + [examples % batch] * (examples % batch > 0)
        taken = np.concatenate([step.indices for step in steps if step.epoch == epoch])
        assert sorted(taken.tolist()) == list(range(examples))


def test_no_global_random_state_is_touched() -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] - a tuple by default
    epoch_order(100, seed=0, epoch=0)
    hold_out(np.arange(100), 0.1, 0)
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index] - as above


def test_groups_are_prompts_only_where_prompts_repeat() -> None:
    repeated, single = np.array([1, 2, 1]), np.array([1, 2, 3])
    assert order_groups(repeated, "prompt") is repeated
    assert order_groups(single, "prompt") is None and order_groups(repeated, "example") is None


def test_groups_must_match_the_examples() -> None:
    with pytest.raises(ValueError, match="wanted a group for each of 3 examples, got 2"):
        epoch_order(3, seed=0, epoch=0, groups=np.array([1, 2]))


@given(groups.filter(lambda values: len(set(values.tolist())) > 1), st.floats(0.01, 0.99), st.integers(0, 99))
def test_no_prompt_is_on_both_sides(values: np.ndarray, share: float, seed: int) -> None:
    train, held = hold_out(values, share, seed)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(values)))
    assert len(train) and len(held) and not set(values[train].tolist()) & set(values[held].tolist())


def test_a_held_out_share_is_the_share() -> None:
    prompts = np.repeat(np.arange(500), 2)
    train, held = hold_out(prompts, 0.2, 7)
    assert (len(train), len(held)) == (800, 200)
    assert held.tolist() != hold_out(prompts, 0.2, 8)[1].tolist()
    mixed = np.random.default_rng(0).permutation(prompts)  # another order of the file, the same prompts held out
    assert set(mixed[hold_out(mixed, 0.2, 7)[1]].tolist()) == set(prompts[held].tolist())


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(DataError, match="at least two prompts, got 1"):
        hold_out(np.array([4, 4]), 0.5, 0)

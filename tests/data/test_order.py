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
    steps_per_epoch,
)
from preftree.data.store.example import NO_PROMPT
from preftree.errors import DataError
from support.order import step_indices

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
    for step, (one, two) in enumerate(zip(whole[start:], resumed, strict=True), start):
        assert one.tolist() == two.tolist()
        assert one.tolist() == step_indices(step, num_examples=examples, batch_size=batch, seed=seed).tolist()


@given(st.integers(1, 60), st.integers(1, 20))
def test_an_epoch_holds_every_example_once_and_its_last_step_is_short(examples: int, batch: int) -> None:
    length = steps_per_epoch(examples, batch)
    steps = list(iterate_steps(0, 2 * length, num_examples=examples, batch_size=batch, seed=3))
    for epoch in (steps[:length], steps[length:]):
        sizes = [len(step) for step in epoch]
        assert sizes == [batch] * (examples // batch) + [examples % batch] * (examples % batch > 0)
        assert sorted(np.concatenate(epoch).tolist()) == list(range(examples))


def test_no_global_random_state_is_touched() -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] - a tuple by default
    epoch_order(100, seed=0, epoch=0)
    hold_out(np.arange(100), 0.1, 0)
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index] - as above


def test_groups_are_prompts_only_where_prompts_repeat() -> None:
    repeated, single = np.array([1, 2, 1]), np.array([1, 2, 3])
    together = order_groups(repeated, "prompt", 8)
    assert together is not None and together[0] == together[2] != together[1]
    assert order_groups(single, "prompt", 8) is None and order_groups(repeated, "example", 8) is None
    assert order_groups(np.array([5, 5, 5]), "prompt", 8) is None  # one prompt for all


@given(groups, st.integers(1, 5))
def test_no_group_is_larger_than_a_step_and_rows_without_a_prompt_are_alone(values: np.ndarray, batch: int) -> None:
    if (numbers := order_groups(values, "prompt", batch)) is None:
        assert len(set(values.tolist())) in (1, len(values))
        return
    for prompt in set(values.tolist()):
        parts = [numbers[i] for i in np.flatnonzero(values == prompt).tolist()]
        size = 1 if prompt == NO_PROMPT else batch
        pieces = [parts[i : i + size] for i in range(0, len(parts), size)]
        assert all(len(set(piece)) == 1 for piece in pieces)
        assert len({piece[0] for piece in pieces}) == len(pieces)
    pairs = set(zip(numbers.tolist(), values.tolist(), strict=True))
    assert len(pairs) == len({number for number, _ in pairs})  # no number stands for two prompts


def test_file_keeps_the_order_of_the_file() -> None:
    steps = iterate_steps(0, 4, num_examples=5, batch_size=3, seed=3, shuffle=False)
    assert [step.tolist() for step in steps] == [[0, 1, 2], [3, 4], [0, 1, 2], [3, 4]]
    assert order_groups(np.array([1, 2, 1]), "file", 2) is None


def test_plain_text_beside_prompts_is_shuffled() -> None:
    prompts = np.array([NO_PROMPT] * 90 + [1, 1, 2, 2, 3])
    order = epoch_order(95, seed=0, epoch=0, groups=order_groups(prompts, "prompt", 8))
    text = order[order < 90]
    assert sum(after - before == 1 for before, after in pairwise(text.tolist())) < 8


def test_groups_must_match_the_examples() -> None:
    with pytest.raises(ValueError, match="wanted a group for each of 3 examples, got 2"):
        epoch_order(3, seed=0, epoch=0, groups=np.array([1, 2]))


@given(groups.filter(lambda values: len(set(values.tolist())) > 1), st.floats(0.01, 0.99), st.integers(0, 99))
def test_no_prompt_is_on_both_sides(values: np.ndarray, share: float, seed: int) -> None:
    train, held = hold_out(values, share, seed)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(values)))
    assert len(train) and len(held)
    assert not set(values[train].tolist()) & set(values[held].tolist()) - {NO_PROMPT}


def test_a_held_out_share_is_the_share() -> None:
    prompts = np.repeat(np.arange(500), 2)
    train, held = hold_out(prompts, 0.2, 7)
    assert (len(train), len(held)) == (800, 200)
    assert held.tolist() != hold_out(prompts, 0.2, 8)[1].tolist()
    mixed = np.random.default_rng(0).permutation(prompts)  # another order of the file, the same prompts held out
    assert set(mixed[hold_out(mixed, 0.2, 7)[1]].tolist()) == set(prompts[held].tolist())


def test_a_prompt_that_does_not_fit_is_passed_over() -> None:
    prompts = np.concatenate([np.arange(100, 1000), np.repeat(7, 100)])  # 100 examples of one prompt
    for seed in range(30):
        assert len(hold_out(prompts, 0.08, seed)[1]) == 80
    large = np.concatenate([np.repeat(7, 50), np.repeat(8, 30), np.repeat(9, 40)])  # none fits
    assert all(hold_out(large, 0.1, seed)[1].tolist() == list(range(50, 80)) for seed in range(5))


def test_rows_without_a_prompt_are_held_out_one_by_one() -> None:
    text = np.full(200, NO_PROMPT)
    train, held = hold_out(text, 0.1, 0)
    assert len(held) == 20 and sorted([*train.tolist(), *held.tolist()]) == list(range(200))
    assert held.tolist() != hold_out(text, 0.1, 1)[1].tolist()
    assert sum(after - before == 1 for before, after in pairwise(held.tolist())) < 8
    mixed = np.concatenate([text, np.repeat([5, 6], 20)])
    held = hold_out(mixed, 0.5, 0)[1]
    assert len(held) == 120 and all(np.isin(np.flatnonzero(mixed == one), held).sum() in (0, 20) for one in (5, 6))


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(DataError, match="at least two prompts, got 1"):
        hold_out(np.array([4, 4]), 0.5, 0)

"""Trees across prompts: what they share, against sets of contexts and the sizes of all ways to split a step."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preftree.tree import layout
from preftree.tree.layout import LEAST_SHARED, Sharing, TokenSequence, batch_trees, grow_tree
from preftree.tree.mask import visible
from preftree.tree.pack import plan_step


def sequence(*parts: tuple[int, int]) -> TokenSequence:
    """Runs of (token, number of times); the last run is the response."""
    ids = np.concatenate([np.full(times, token, np.int32) for token, times in parts])
    return TokenSequence(ids, np.arange(len(ids)) >= len(ids) - parts[-1][1])


def pair(system: int, prompt: int, *, shared: int = 100, length: int = 6) -> list[TokenSequence]:
    """Two responses after `shared` tokens of a system prompt and ten of a question."""
    return [sequence((system, shared), (1000 + prompt, 10), (2000 + 2 * prompt + side, length)) for side in (0, 1)]


def computed(plan) -> int:
    return sum(len(micro.batch.input_T) for rank in plan for micro in rank)


def test_a_system_prompt_is_computed_once() -> None:
    step = [pair(1, number) for number in range(5)]
    plan = plan_step(step, range(5), budget=1000, sharing=Sharing())
    assert computed(plan) == 100 + 5 * (10 + 2 * 5)
    apart = plan_step(step, range(5), budget=1000, sharing=Sharing(prefixes=False))
    assert computed(apart) == 5 * 2 * (100 + 10 + 5)


def test_a_short_common_beginning_is_not_shared() -> None:
    below = [pair(1, number, shared=LEAST_SHARED - 1) for number in range(2)]
    assert computed(plan_step(below, [0, 1], budget=1000, sharing=Sharing())) == 2 * (LEAST_SHARED - 1 + 20)
    just = [pair(1, number, shared=LEAST_SHARED) for number in range(2)]
    assert computed(plan_step(just, [0, 1], budget=1000, sharing=Sharing())) == LEAST_SHARED + 2 * 20


def trie_size(examples: list[list[TokenSequence]]) -> int:
    """Tokens where every beginning is shared."""
    return len({one.ids[:n].tobytes() for example in examples for one in example for n in range(1, len(one.ids))})


def test_a_long_row_beside_others_keeps_nobody_from_sharing() -> None:
    """Four documents after one system prompt, with four questions each, and rows of very different length."""
    step = [
        [sequence((1, 100), (10 + document, 500), (100 + 4 * document + question, 400 * question + 9), (9, 3))]
        for document in range(4)
        for question in range(4)
    ]
    plan = plan_step(step, range(16), budget=20_000, sharing=Sharing())
    assert computed(plan) == trie_size(step)


def test_a_long_dialogue_is_computed_once() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 1000, 40 * 80).astype(np.int32)
    step = [[TokenSequence(ids[: 80 * n], np.arange(80 * n) >= 80 * n - 20)] for n in range(1, 41)]
    plan = plan_step(step, range(40), budget=8192, sharing=Sharing())
    assert computed(plan) <= trie_size(step) + 40


def test_a_part_that_is_larger_than_expected_is_halved() -> None:
    """150 tokens for all and 50 more for each two, which are too few: the parts are larger than expected."""
    step = [[sequence((1, 150), (10 + number // 2, 50), (100 + number, 190 + number), (9, 9))] for number in range(40)]
    apart = sum(len(example[0].ids) - 1 for example in step)
    sizes = [
        computed(plan_step(step, range(40), budget=budget, sharing=Sharing()))
        for budget in (600, 1500, 4096, 4500, 5000, 6000, 8192, 20_000)
    ]
    assert sizes[-1] <= min(sizes) and max(sizes) < apart, sizes


def test_the_turns_of_a_dialogue_share_its_earlier_turns() -> None:
    first = [sequence((1, 30), (2, 80)), sequence((1, 30), (3, 80))]
    second = [sequence((1, 30), (2, 80), (4, 50), (5, 9)), sequence((1, 30), (2, 80), (4, 50), (6, 9))]
    plan = plan_step([first, second], [0, 1], budget=1000, sharing=Sharing())
    # The second turn's prompt holds the whole first response, the first turn's own row all of it but the last token.
    # The rejected first response begins after the 30 tokens that it shares with rows of its own prompt alone.
    assert computed(plan) == (30 + 80 + 50 + 2 * 8) + (30 + 79)
    assert len(plan[0]) == 1


def test_a_beginning_is_repeated_where_the_budget_cuts() -> None:
    step = [pair(1, number) for number in range(6)]
    (plan,) = plan_step(step, range(6), budget=165, sharing=Sharing())
    assert [len(micro.batch.input_T) for micro in plan] == [100 + 3 * 20, 100 + 3 * 20]


@pytest.mark.parametrize(("families", "num_ranks"), [(1, 2), (3, 2), (1, 4), (5, 4)])
def test_ranks_get_similar_work_of_what_is_shared(families: int, num_ranks: int) -> None:
    step = [pair(number % families, number, shared=300) for number in range(48)]
    plan = plan_step(step, range(48), budget=8192, num_ranks=num_ranks, sharing=Sharing())
    loads = [sum(len(micro.batch.input_T) for micro in rank) for rank in plan]
    assert max(loads) <= 1.1 * sum(loads) / num_ranks
    # Only families that are cut repeat their beginning, and fewer of them than there are ranks.
    assert sum(loads) <= 48 * 20 + 300 * (families + (num_ranks - 1) ** 2)


def test_a_family_is_not_cut_where_that_makes_the_step_longer() -> None:
    """Two beginnings of 300 tokens with 24 pairs each on three ranks: cut in three they are 2 x 460, whole 780."""
    step = [pair(number % 2, number, shared=300) for number in range(48)]
    plan = plan_step(step, range(48), budget=8192, num_ranks=3, sharing=Sharing())
    assert sorted(sum(len(micro.batch.input_T) for micro in rank) for rank in plan) == [0, 780, 780]


def test_other_angles_share_nothing() -> None:
    """A longrope model has other angles for rows beyond a length, so a tree holds rows of one kind."""
    step = [[sequence((1, 80), (2, 10)), sequence((1, 80), (3, 40))], [sequence((1, 80), (4, 12))]]
    plan = plan_step(step, [0, 1], budget=1000, sharing=Sharing(switch=100))
    assert computed(plan) == (80 + 9 + 11) + (80 + 39)
    (micro,) = plan[0]
    depths = {branch.start: branch.depth + branch.stop - branch.start for branch in micro.batch.branches}
    ends = micro.batch.end_T.tolist()
    for root in (branch for branch in micro.batch.branches if branch.parent < 0):
        below = [deep > 100 for start, deep in depths.items() if root.start <= start < ends[root.start]]
        assert len(set(below)) == 1


tokens = st.integers(0, 1)
drawn = st.lists(
    st.tuples(st.integers(0, 3), st.lists(tokens, min_size=1, max_size=6), st.lists(tokens, min_size=1, max_size=5)),
    min_size=1,
    max_size=7,
)


@given(drawn, st.integers(1, 4))
def test_every_prediction_sees_its_own_past_whatever_is_shared(rows, least: int) -> None:
    """Against each token's context; the least length is small, so that random prompts of two words meet it."""
    names = {}
    prompts = [names.setdefault(tuple(prompt), len(names)) for _, prompt, _ in rows]
    sequences = [
        TokenSequence(np.array(prompt + response, np.int32), np.arange(len(prompt + response)) >= len(prompt))
        for _, prompt, response in rows
    ]
    before = layout.LEAST_SHARED
    layout.LEAST_SHARED = least
    try:
        batch = batch_trees([grow_tree(sequences, prompts)])
    finally:
        layout.LEAST_SHARED = before
    sees = visible(batch.end_T, batch.position_T)
    incidence = 0
    for one in sequences:
        for place in np.flatnonzero(one.scored):
            source = int(batch.source_S[batch.prediction_I[incidence]])
            past = torch.nonzero(sees[source])[:, 0]
            assert batch.input_T[past].tolist() == one.ids[:place].tolist()
            assert int(batch.target_S[batch.prediction_I[incidence]]) == one.ids[place]
            incidence += 1
    assert incidence == len(batch.prediction_I)
    for branch, after in pairwise(batch.branches):
        assert branch.stop == after.start
    if least == 1:
        contexts = {tuple(one.ids[:n]) for one in sequences for n in range(1, len(one.ids))}
        assert len(batch.input_T) == len(contexts)

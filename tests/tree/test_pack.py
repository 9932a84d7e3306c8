from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftree.tree.layout import Sharing, TokenSequence, grow_tree
from preftree.tree.pack import pack, pack_rows, plan_step


def pair(prompt: int, number: int, length: int) -> list[TokenSequence]:
    """Two responses of `length` tokens; examples with equal `prompt` share ten tokens."""
    ids = [prompt] * 10
    scored = np.arange(10 + length) >= 10
    return [
        TokenSequence(np.array([*ids, *([1000 + 2 * number + side] * length)], np.int32), scored) for side in (0, 1)
    ]


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(50, 120))
def test_every_item_once_and_no_bin_too_full(sizes: list[int], budget: int) -> None:
    bins = pack(sizes, budget)
    assert sorted(index for one in bins for index in one) == list(range(len(sizes)))
    assert all(sum(sizes[index] for index in one) <= budget for one in bins)
    # First-fit never leaves two bins that would fit into one.
    loads = sorted(sum(sizes[index] for index in one) for one in bins)
    assert len(loads) < 2 or loads[0] + loads[1] > budget


def test_an_item_over_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="item 1 has 9 tokens, the budget is 8"):
        pack([3, 9], 8)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 30)), max_size=30), st.integers(90, 200))
def test_padding_counts(shapes: list[tuple[int, int]], budget: int) -> None:
    bins = pack_rows(shapes, budget)
    assert sorted(index for one in bins for index in one) == list(range(len(shapes)))
    for one in bins:
        assert sum(shapes[index][0] for index in one) * max(shapes[index][1] for index in one) <= budget


examples = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), min_size=1, max_size=12)


@given(examples, st.integers(35, 90), st.integers(1, 3), st.booleans())
def test_a_plan_holds_every_example_once_within_the_budget(
    drawn: list[tuple[int, int]], budget: int, num_ranks: int, share: bool
) -> None:
    step = [pair(prompt, number, length) for number, (prompt, length) in enumerate(drawn)]
    prompts = [prompt for prompt, _ in drawn]
    plan = plan_step(step, prompts, budget=max(budget, 45), num_ranks=num_ranks, sharing=Sharing(share))
    assert len(plan) == num_ranks
    assert len({len(rank) for rank in plan}) == 1
    seen = []
    for micro in (micro for rank in plan for micro in rank):
        lengths = [branch.stop - branch.start for branch in micro.batch.branches]
        computed = sum(lengths) if share else len(lengths) * max(lengths, default=0)
        assert computed <= max(budget, 45)
        # Responses come in the order of the examples: their own last tokens say whose they are.
        expected = [one for index in micro.examples for one in step[index]]
        assert micro.batch.count_R.tolist() == [int(one.scored.sum()) for one in expected]
        first = np.cumsum([0, *micro.batch.count_R.tolist()])[:-1]
        targets = micro.batch.target_S[micro.batch.prediction_I[first]] if len(first) else []
        assert [int(t) for t in targets] == [int(one.ids[-1]) for one in expected]
        seen.extend(micro.examples)
    assert sorted(seen) == list(range(len(step)))


def test_examples_of_one_prompt_share_it() -> None:
    step = [pair(0, 0, 5), pair(1, 1, 5), pair(0, 2, 5)]
    ((micro,),) = plan_step(step, [0, 1, 0], budget=1000, sharing=Sharing())
    # Two prompts of 10 tokens, six responses of which the last token is no input.
    assert len(micro.batch.input_T) == 2 * 10 + 6 * 4
    ((micro,),) = plan_step(step, [0, 1, 0], budget=1000, sharing=Sharing(False))
    assert len(micro.batch.input_T) == 6 * (10 + 4)


def test_a_prompt_with_too_many_examples_is_repeated() -> None:
    step = [pair(0, number, 6) for number in range(4)]
    (plan,) = plan_step(step, [0] * 4, budget=35, sharing=Sharing())
    assert [len(micro.batch.input_T) for micro in plan] == [10 + 2 * 2 * 5, 10 + 2 * 2 * 5]
    assert len(grow_tree([one for example in step for one in example])) == 10 + 8 * 5


def test_an_example_over_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="example 1 needs 28 tokens, the micro-batch budget is 20"):
        plan_step([pair(0, 0, 2), pair(0, 1, 10)], [0, 0], budget=20, sharing=Sharing())

"""Layout against a slow oracle that knows nothing of tries: each token's context is the list of tokens before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preftree.losses.quantities import sum_responses
from preftree.tree.layout import TokenSequence, batch_trees, grow_tree
from preftree.tree.mask import visible


def sequence(prompt: list[int], response: list[int]) -> TokenSequence:
    return TokenSequence(
        np.array(prompt + response, np.int32), np.array([False] * len(prompt) + [True] * len(response))
    )


tokens = st.integers(0, 2)
sequences = st.lists(
    st.builds(sequence, st.lists(tokens, min_size=1, max_size=4), st.lists(tokens, min_size=1, max_size=5)),
    min_size=1,
    max_size=5,
)


@given(st.lists(sequences, min_size=1, max_size=3))
def test_every_prediction_sees_exactly_its_own_past(groups: list[list[TokenSequence]]) -> None:
    batch = batch_trees([grow_tree(group) for group in groups])
    sees = visible(batch.end_T, batch.position_T)
    flat = [one for group in groups for one in group]
    assert batch.count_R.tolist() == [int(one.scored.sum()) for one in flat]
    incidence = 0
    for one in flat:
        for place in np.flatnonzero(one.scored):
            prediction = int(batch.prediction_I[incidence])
            incidence += 1
            source = int(batch.source_S[prediction])
            past = torch.nonzero(sees[source])[:, 0]
            assert batch.input_T[past].tolist() == one.ids[:place].tolist()
            assert batch.position_T[past].tolist() == list(range(place))
            assert int(batch.target_S[prediction]) == one.ids[place]
    assert incidence == len(batch.prediction_I)


@given(st.lists(sequences, min_size=1, max_size=3))
def test_nothing_is_computed_twice(groups: list[list[TokenSequence]]) -> None:
    batch = batch_trees([grow_tree(group) for group in groups])
    contexts = sum(len({tuple(one.ids[:n]) for one in group for n in range(1, len(one.ids))}) for group in groups)
    assert len(batch.input_T) == contexts
    predictions = {
        (number, tuple(one.ids[: place + 1]))
        for number, group in enumerate(groups)
        for one in group
        for place in np.flatnonzero(one.scored)
    }
    assert len(batch.source_S) == len(predictions)


@given(st.lists(sequences, min_size=1, max_size=3))
def test_branches_and_spans_tell_the_same_mask(groups: list[list[TokenSequence]]) -> None:
    batch = batch_trees([grow_tree(group) for group in groups])
    expected = torch.zeros(len(batch.input_T), len(batch.input_T), dtype=torch.bool)
    for branch in batch.branches:
        own = torch.arange(branch.start, branch.stop)
        expected[own[:, None], own[None, :]] = own[None, :] <= own[:, None]
        above = branch
        while above.parent >= 0:
            above = batch.branches[above.parent]
            expected[branch.start : branch.stop, above.start : above.stop] = True
    assert torch.equal(visible(batch.end_T, batch.position_T), expected)
    assert [b.stop for b in batch.branches[:-1]] == [b.start for b in batch.branches[1:]]


def test_the_drawing_in_the_docs() -> None:
    tree = grow_tree([sequence([1, 1, 1], [10, 11, 12]), sequence([1, 1, 1], [10, 13]), sequence([1, 1, 1], [14])])
    assert tree.input_T.tolist() == [1, 1, 1, 10, 11]
    assert tree.position_T.tolist() == [0, 1, 2, 3, 4]
    assert tree.end_T.tolist() == [5, 5, 5, 5, 5]
    assert list(zip(tree.source_S.tolist(), tree.target_S.tolist())) == [(2, 10), (2, 14), (3, 11), (3, 13), (4, 12)]
    assert tree.prediction_I.tolist() == [0, 2, 4, 0, 3, 1]
    assert tree.count_R.tolist() == [3, 2, 1]


def test_window_counts_positions_not_places() -> None:
    batch = batch_trees([grow_tree([sequence([1, 2], [3, 4, 9]), sequence([1, 2], [5, 6, 9])])])
    sees = visible(batch.end_T, batch.position_T, window=2)
    # Row: 1 2 3 4 5 6. Token 5 stands at position 2, right after 2 on its own branch, though three places behind it.
    assert torch.nonzero(sees[4])[:, 0].tolist() == [1, 4]


def test_tokens_after_the_last_scored_one_are_left_out() -> None:
    tail = TokenSequence(np.array([1, 2, 3, 4], np.int32), np.array([False, True, False, False]))
    assert len(grow_tree([tail])) == 1


@pytest.mark.parametrize(
    ("scored", "message"), [([False, False], "no scored token"), ([True, True], "scores its first token")]
)
def test_unscorable_sequences_are_refused(scored: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grow_tree([TokenSequence(np.array([1, 2], np.int32), np.array(scored))])


def test_sums_run_in_float64_and_token_order() -> None:
    batch = batch_trees([grow_tree([sequence([1], [2, 3]), sequence([1], [2, 4])])])
    logps_I = torch.tensor([1.0, 1e-9, 1.0, -1e-9], requires_grad=True)
    sums = sum_responses(logps_I, batch.count_R)
    assert sums.values.tolist() == [1.0 + float(torch.tensor(1e-9)), 1.0 - float(torch.tensor(1e-9))]
    assert sums.num_tokens.tolist() == [2, 2]
    (sums.values * torch.tensor([2.0, 3.0])).sum().backward()
    assert logps_I.grad is not None and logps_I.grad.tolist() == [2, 2, 3, 3]

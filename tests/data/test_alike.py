"""Order by prefix: rows that begin alike meet in a step, and nothing else about an epoch changes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from preftree.data.alike import groups_by_beginning
from preftree.data.order import epoch_order
from preftree.tree.layout import LEAST_SHARED, common_length


def words(*parts: tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.full(times, token, np.int32) for token, times in parts])


def dialogue(number: int, turns: int, system: int = 0) -> list[np.ndarray]:
    """Beginnings of the rows of a dialogue: each holds those before it."""
    return [
        words((1, system), *((100 + 10 * number + turn, 40) for turn in range(length + 2))) for length in range(turns)
    ]


def test_the_turns_of_a_dialogue_are_a_group() -> None:
    rows = [row for number in range(6) for row in dialogue(number, 4)]
    shuffled = np.random.default_rng(0).permutation(len(rows))
    groups = groups_by_beginning([rows[index] for index in shuffled], None, batch_size=8)
    assert {(group, index // 4) for group, index in zip(groups.tolist(), shuffled.tolist())} == {
        (groups[shuffled.tolist().index(4 * number)], number) for number in range(6)
    }
    assert len(set(groups.tolist())) == 6


def test_what_all_rows_share_groups_nothing_and_dialogues_within_it_stay_together() -> None:
    rows = [row for number in range(6) for row in dialogue(number, 3, system=200)]
    groups = groups_by_beginning(rows, None, batch_size=8).reshape(6, 3)
    assert (groups == groups[:, :1]).all() and len(set(groups[:, 0].tolist())) == 6
    single = [words((1, 200), (10 + number, 30)) for number in range(20)]
    assert len(set(groups_by_beginning(single, None, batch_size=8).tolist())) == 20


def test_a_dialogue_longer_than_a_step_is_cut_where_it_shares_least() -> None:
    groups = groups_by_beginning(dialogue(0, 6), None, batch_size=4).tolist()
    assert groups[2:] == [groups[2]] * 4
    assert len({groups[0], groups[1], groups[2]}) == 3


runs = st.lists(st.tuples(st.integers(0, 1), st.integers(30, 50)), min_size=1, max_size=4)


@given(st.lists(runs, min_size=1, max_size=14), st.integers(1, 6), st.data())
def test_every_group_begins_alike_and_fits_a_step(drawn, batch: int, data: st.DataObject) -> None:
    rows = [words(*parts) for parts in drawn]
    before = data.draw(st.none() | st.just(np.arange(len(rows)) // min(2, batch)))
    groups = groups_by_beginning(rows, before, batch)
    assert sorted(epoch_order(len(rows), seed=1, epoch=0, groups=groups)) == list(range(len(rows)))
    for group in set(groups.tolist()):
        members = np.flatnonzero(groups == group).tolist()
        assert len(members) <= max(batch, 1)
        firsts = members if before is None else sorted({int(np.flatnonzero(before == before[i])[0]) for i in members})
        if len(firsts) > 1:
            assert common_length([rows[index] for index in firsts]) >= LEAST_SHARED
    if before is not None:
        assert len({(int(b), int(g)) for b, g in zip(before, groups)}) == len(set(before.tolist()))

"""Rows that repeat or contradict an earlier one."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from preftree.data.formats import FORMATS
from preftree.data.rows import duplicates
from preftree.data.rows.duplicates import ordered_pairs
from preftree.data.tools.convert import convert_file
from preftree.errors import DataError
from preftree.records import Ranking
from support.datafiles import example_rows, read_all, said, write_rows

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def found(tmp_path: Path, *rows: dict[str, Any]) -> list[tuple[int, str]]:
    """Lines that are left out: faulty ones under their fault, repeated ones as such."""
    _, tally = read_all(write_rows(tmp_path / "rows.jsonl", rows))
    places = tally.places.get("repeated", [])
    assert len(places) == min(tally.repeated, 5)
    repeated = [(int(place.rpartition(":")[2]), "repeated") for place in places]
    return sorted([*((row.line, row.fault) for row in tally.rejected), *repeated])


def test_a_repeated_pair_and_its_opposite(tmp_path: Path) -> None:
    swapped = {"prompt": "p", "chosen": "b", "rejected": "a"}
    other = {"prompt": "p", "chosen": "a", "rejected": "c"}
    rows = [PAIR, other, swapped, PAIR | {"weight": 2}, {"prompt": "q", "chosen": "b", "rejected": "a"}]
    assert found(tmp_path, *rows) == [(3, "contradiction"), (4, "repeated")]
    _, tally = read_all(str(tmp_path / "rows.jsonl"))
    assert f"{tmp_path}/rows.jsonl:1" in tally.rejected[0].message
    assert (tally.rows, tally.num_rejected, tally.repeated, tally.accepted) == (5, 1, 1, 3)


def test_repeats_do_not_count_towards_the_rejected(tmp_path: Path) -> None:
    """A file of one row and its copies is no damaged file: it is read, and the copies are counted."""
    path = write_rows(tmp_path / "rows.jsonl", [PAIR] * 50)
    tally, written = convert_file(path, tmp_path / "out.jsonl", max_rejected_share=0.0)
    assert (written, tally.repeated, tally.num_rejected) == (1, 49, 0)
    assert tally.places["repeated"] == [f"{path}:{line}" for line in range(2, 7)]


def test_other_tools_or_options_make_another_row(tmp_path: Path) -> None:
    chat = {"messages": [said("user", "a"), said("assistant", "b")]}
    search = chat | {"tools": [{"name": "search"}]}
    thinking = chat | {"chat_template_kwargs": {"enable_thinking": True}}
    reasons = {"messages": [said("user", "a"), said("assistant", "b", reasoning_content="c")]}
    assert found(tmp_path, chat, search, thinking, reasons, search) == [(5, "repeated")]


def test_no_text_is_taken_for_another(tmp_path: Path) -> None:
    """Lengths stand before the texts: what moves from one field or turn to the next makes another row."""
    one = {"prompt": "ab", "chosen": "c", "rejected": "d"}
    two = {"prompt": "a", "chosen": "bc", "rejected": "d"}
    assert found(tmp_path, one, two) == []
    chat = [
        {"messages": [said("user", "x user 1 y"), said("assistant", "a")]},
        {"messages": [said("user", "x"), said("user", "y"), said("assistant", "a")]},
        {"messages": [said("system", "x user 1 y"), said("assistant", "a")]},
    ]
    assert found(tmp_path, *chat) == []


def test_a_tie_repeats_either_way_round(tmp_path: Path) -> None:
    tie = PAIR | {"tie": True}
    assert found(tmp_path, PAIR, tie, {"prompt": "p", "chosen": "b", "rejected": "a", "tie": True}) == [(3, "repeated")]


def test_a_ranking_is_all_its_pairs(tmp_path: Path) -> None:
    first = {"prompt": "p", "responses": ["a", "b", "c"], "scores": [3, 2, 1]}
    part = {"prompt": "p", "responses": ["a", "c"], "scores": [3, 1]}
    more = {"prompt": "p", "responses": ["a", "b", "d"], "scores": [3, 2, 1]}
    reverse = {"prompt": "p", "responses": ["x", "b", "a"], "scores": [3, 2, 1]}
    assert found(tmp_path, first, part, more, reverse) == [(2, "repeated"), (4, "contradiction")]


def test_a_label_contradicts_its_opposite(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "a", "label": True}
    assert found(tmp_path, row, row | {"label": False}, row) == [(2, "contradiction"), (3, "repeated")]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_finds_its_duplicates(name: str, tmp_path: Path) -> None:
    rows = example_rows(name)
    repeated = len(rows) + 1  # of a tree of messages, the line of its root
    assert found(tmp_path, *rows, *again(rows)) == [(repeated, "repeated")]


def again(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows; messages of a tree as those of another one."""
    names = ("message_id", "parent_id", "message_tree_id")
    return [row | {key: f"{row[key]}-2" for key in names if row.get("message_id") and row[key]} for row in rows]


def test_planted_faults_are_found_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(1000)]
    planted: dict[int, str] = {}
    for i in range(100):
        rows.append(rows[i])
        rows.append({"prompt": f"p{i + 200}", "chosen": f"b{i + 200}", "rejected": f"a{i + 200}"})
        planted[len(rows)] = "contradiction"
        rows.append({"prompt": f"new{i}", "chosen": "same", "rejected": "same"})
        planted[len(rows)] = "same_responses"
    _, tally = read_all(write_rows(tmp_path / "rows.jsonl", rows))
    assert {row.line: row.fault for row in tally.rejected} == planted
    assert tally.repeated == 100


def test_duplicates_are_found_across_files(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [PAIR])
    write_rows(tmp_path / "b.jsonl", [PAIR | {"prompt": "q"}, PAIR])
    _, tally = read_all(str(tmp_path))
    assert (tally.repeated, tally.places["repeated"]) == (1, [f"{tmp_path}/b.jsonl:2"])


def test_equal_scores_make_no_pair() -> None:
    assert ordered_pairs(Ranking("p", ("a", "b", "c"), figures={"scores": (2.0, 2.0, 1.0)})) == [(0, 2), (1, 2)]
    assert ordered_pairs(Ranking("p", ("a", "b", "c"))) == [(0, 1), (0, 2), (1, 2)]


def test_rows_in_the_temporary_file_are_found_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    rows = [
        {"prompt": "p", "chosen": one, "rejected": two} for one, two in (rng.sample("abcdefgh", 2) for _ in range(99))
    ]
    rankings = [{"prompt": "q", "responses": rng.sample("abcde", 3)} for _ in range(60)]
    for kind in (rows, rankings):
        _, whole = read_all(write_rows(tmp_path / "rows.jsonl", kind))
        assert whole.repeated > 5
        assert whole.num_rejected > 5
        with monkeypatch.context() as few:
            few.setattr(duplicates, "IN_MEMORY", 4)
            few.setattr(duplicates, "BATCH", 4)
            _, split = read_all(str(tmp_path / "rows.jsonl"))
        assert split == whole


def test_a_temporary_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(duplicates, "IN_MEMORY", 1)
    monkeypatch.setattr(duplicates, "BATCH", 1)
    monkeypatch.setattr(duplicates.sqlite3, "connect", full)
    with pytest.raises(DataError, match=r"temporary file \(database or disk is full\); make room, or set TMPDIR"):
        read_all(write_rows(tmp_path / "rows.jsonl", [PAIR]))

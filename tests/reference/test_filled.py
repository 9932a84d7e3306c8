"""Notes of data that a table holds whole: the next build reads none of it, and a lost part makes it look again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from preftree.reference.build import build_reference
from preftree.reference.store import ReferenceTable
from support.models import tiny_llama
from support.tables import CountingScorer, some_pairs, table_of

DATA, OTHER = "a" * 64, "b" * 64


def unread() -> Iterator[list]:
    raise AssertionError("data that the table holds whole were read")
    yield []


@pytest.fixture
def scorer() -> CountingScorer:
    return CountingScorer(tiny_llama())


def test_data_that_a_table_holds_whole_are_not_read_again(tmp_path: Path, scorer: CountingScorer) -> None:
    first = build_reference(table_of(tmp_path, scorer), scorer, some_pairs(20), budget=512, data=DATA)
    again = build_reference(table_of(tmp_path, scorer), scorer, unread(), budget=512, data=DATA)
    assert (first.num_scored, again.num_scored, again.num_cached) == (40, 0, 40)
    with pytest.raises(AssertionError, match="were read"):
        build_reference(table_of(tmp_path, scorer), scorer, unread(), budget=512, data=OTHER)


@pytest.mark.parametrize("loss", ["part lost", "part damaged", "note damaged", "note of other data"])
def test_what_is_lost_is_computed_again(tmp_path: Path, scorer: CountingScorer, loss: str) -> None:
    pairs = some_pairs(20)
    table = table_of(tmp_path, scorer)
    build_reference(table, scorer, pairs, budget=512, data=DATA)
    build_reference(table, scorer, pairs[:5], budget=512, data=OTHER)
    (part,) = table.folder.glob("part-*")
    note, other = (table.folder / f"filled-{name[:16]}.json" for name in (DATA, OTHER))
    if loss == "part lost":
        shutil.rmtree(part)
    elif loss == "part damaged":
        (part / "part.safetensors").write_bytes((part / "part.safetensors").read_bytes()[:-8])
    elif loss == "note damaged":
        note.write_text(note.read_text().replace('"responses": 40', '"responses": 41'))
    else:
        note.write_bytes(other.read_bytes())
    report = build_reference(table_of(tmp_path, scorer), scorer, pairs, budget=512, data=DATA)
    assert (report.num_scored, report.num_cached) == ((40, 0) if "part" in loss else (0, 40))
    flat = [sequence for pair in pairs for sequence in pair]
    assert not ReferenceTable.open(tmp_path, table.key).missing(flat).any()
    assert json.loads(note.read_text())["responses"] == 40


def test_an_interrupted_build_notes_nothing(tmp_path: Path, scorer: CountingScorer) -> None:
    def interrupt(report: object) -> None:
        raise KeyboardInterrupt

    table = table_of(tmp_path, scorer)
    with pytest.raises(KeyboardInterrupt):
        build_reference(table, scorer, some_pairs(20), budget=64, data=DATA, progress=interrupt)
    assert not list(table.folder.glob("filled-*"))

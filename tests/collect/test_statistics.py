"""Figures of a project: scripted people are told apart, progress adds up, and the table says what is undefined."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.collect.records import Vote
from preftree.collect.schema import connect
from preftree.collect.statistics import PersonFigures, figures_of_project, read_crowd
from preftree.collect.store import SqliteStore
from support.datafiles import write_rows
from support.scripted import Decide, new_project, vote_all, with_skill


def first_is_better(pair: int) -> bool:
    """The known answer of each pair, here and in the file of golds: the pair's first response."""
    return True


CROWD: dict[str, Decide] = {
    **{f"good {number}": with_skill(first_is_better, 2.0) for number in range(3)},
    "left": with_skill(first_is_better, 0.0, 4.0),
    "random": with_skill(first_is_better, 0.0),
    "contrary": with_skill(first_is_better, -3.0),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("project")
    rows = [
        {"prompt": f"Question {i}?", "chosen": f"A {i}", "rejected": f"B {i}", "slice": "odd" if i % 2 else "even"}
        for i in range(60)
    ]
    golds = [{"prompt": f"Gold {i}?", "chosen": "yes", "rejected": "no"} for i in range(25)]
    new_project(
        place / "P.db",
        write_rows(place / "pairs.jsonl", rows),
        gold_file=write_rows(place / "gold.jsonl", golds),
        overlap=6,
        golds=0.4,
        repeats=0.1,
    )
    vote_all(place / "P.db", CROWD)
    return place / "P.db"


def people_of(project: Path) -> dict[str, PersonFigures]:
    return {person.name: person for person in figures_of_project(connect(project, write=False)).people}


def test_people_are_told_apart(project: Path) -> None:
    people = people_of(project)
    assert people["left"].flags[0] == "prefers left" and (people["left"].left or 0) > 0.9
    assert people["left"].side_bias - 2 * people["left"].side_error > 1
    assert people["random"].flags == ("answers at random",)
    assert people["contrary"].flags == ("answers against what is known",)
    for number in range(3):
        person = people[f"good {number}"]
        assert not person.flags and person.skill > 0.75 and (person.with_others or 0) > 0.65
        assert person.skill_low < person.skill < person.skill_high
    assert people["contrary"].skill < 0.2 and (people["contrary"].with_others or 1) < 0.3
    assert abs(people["random"].skill - 0.5) < 0.15 and people["random"].checks >= 20


def test_progress_adds_up(project: Path) -> None:
    connection = connect(project, write=False)
    figures, crowd = figures_of_project(connection), read_crowd(connection)
    assert figures.pairs == (60, 60, 60) and figures.golds == 25 and figures.needed == 360
    total = connection.execute("SELECT count(*) FROM vote").fetchone()[0]
    assert figures.votes + figures.repeats == total and figures.repeats > 0
    assert sum(person.votes for person in figures.people) == figures.votes == len(crowd.ids)
    assert set(figures.slices) == {"even", "odd"} and figures.alpha_random is None
    assert sum(found.units for found in figures.slices.values()) == figures.alpha.units == 60
    low, alpha, high = figures.alpha.low, figures.alpha.alpha, figures.alpha.high
    assert low is not None and alpha is not None and high is not None and low < alpha < high
    assert figures.consistency is not None and 0.3 < figures.consistency.value < 0.95
    wins = [abs(win_prob - 0.5) for _, win_prob in figures.undecided]
    assert len(wins) == 60 and wins == sorted(wins)


def test_undone_and_skipped_votes_do_not_count(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i}?", "chosen": f"A {i}", "rejected": f"B {i}"} for i in range(4)]
    new_project(tmp_path / "P.db", write_rows(tmp_path / "pairs.jsonl", rows), overlap=1)
    vote_all(tmp_path / "P.db", {"Ann": with_skill(first_is_better, 9.0)}, most=3)
    store = SqliteStore(tmp_path / "P.db")
    shown = [row[0] for row in store.reading.execute("SELECT shown FROM vote ORDER BY id")]
    for row in (Vote(shown[0], 1, "undo", None, None, 5, 1.0), Vote(shown[1], 1, "undo", None, None, 5, 1.0)):
        store.vote([row]).result()
    store.vote([Vote(shown[1], 2, "skip", None, None, 5, 1.0)]).result()
    store.close()
    figures = figures_of_project(connect(tmp_path / "P.db", write=False))
    assert (figures.votes, figures.skips, figures.undone, figures.pairs) == (1, 1, 2, (4, 1, 1))


def test_the_table_says_what_people_did(project: Path) -> None:
    told = CliRunner().invoke(app, ["collect", "stats", str(project)], env={"COLUMNS": "160"})
    assert told.exit_code == 0, told.output
    for words in (
        "60 pairs, 60 with votes, 60 with all; 25 more with a known answer",
        "slice even",
        "the same answer to a repeat: 0.",
        "prefers left",
        "answers at random",
        "3 of 6 annotators have a flag",
        "undecided: pair",
    ):
        assert words in told.output
    assert "nan" not in told.output.lower()


def test_what_is_undefined_is_said(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i}?", "chosen": f"A {i}", "rejected": f"B {i}"} for i in range(4)]
    new_project(tmp_path / "P.db", write_rows(tmp_path / "pairs.jsonl", rows), overlap=2)
    command = ["collect", "stats", str(tmp_path / "P.db")]
    empty = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    assert empty.exit_code == 0 and "undefined: no pair has votes of two people" in empty.output
    assert "the same answer to a repeat: undefined: no repeats" in empty.output
    vote_all(tmp_path / "P.db", {name: with_skill(first_is_better, 30.0) for name in ("Ann", "Bob")})
    alike = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    assert "undefined: all alike" in alike.output and "nan" not in alike.output.lower()

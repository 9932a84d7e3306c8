"""Votes as training data: rows by hand, every format read back, and a card that names the votes behind its model."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.collect.export import export_project
from preftree.collect.read import project_digest
from preftree.collect.records import Shown, Side
from preftree.collect.schema import connect
from preftree.data.formats import FORMATS
from preftree.data.rows.faults import RowFault
from preftree.data.sources.votes_behind import votes_behind
from preftree.data.tools.inspect import inspect_file
from preftree.errors import ConfigError, DataError
from preftree.records import Label, Message, Preference
from support.datafiles import read_all, write_rows
from support.scripted import Decide, new_project, vote_all

HERE = {
    "own": "collected",
    "trl": "explicit",
    "kto": "unpaired",
    "arena": "arena",
    "argilla": "argilla",
    "label-studio": "label_studio",
    "hh": "hh",
}
"""Formats of exports, and the names under which they are read back."""


def pairs(number: int, *, chat: bool = False, **more: object) -> list[dict[str, Any]]:
    """Rows whose responses are "A" and "B" of their number; the pair's first response is A."""
    rows: list[dict[str, Any]] = []
    for index in range(number):
        row: dict[str, Any] = {"prompt": f"Question {index}?", "chosen": f"A {index}", "rejected": f"B {index}"}
        if chat:
            row["prompt"] = [{"role": "user", "content": row["prompt"]}]
            for name in ("chosen", "rejected"):
                row[name] = [{"role": "assistant", "content": row[name]}]
        rows.append(row | more)
    return rows


def say(*words: str) -> Decide:
    """Someone whose word on the n-th pair is the n-th one: A, B, tie or bad."""

    def decide(shown: Shown, _: object) -> Side:
        word = words[(shown.pair - 1) % len(words)]
        if word == "tie" or word == "bad":
            return word
        return "left" if (word == "A") == shown.first_is_left else "right"

    return decide


PEOPLE = {
    "Ann": say("A", "A", "B", "tie", "bad", "tie"),
    "Bob": say("A", "A", "B", "tie", "bad", "A"),
    "Cat": say("A", "B", "B", "tie", "A", "tie"),
}
"""Six pairs: agreed on A, contradicted, agreed on B, all ties, mostly both bad, a vote among ties."""


def voted(place: Path, people: dict[str, Decide] = PEOPLE, number: int = 6, **more: Any) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    new_project(place / "P.db", write_rows(place / "pairs.jsonl", pairs(number, **more)), overlap=3, repeats=0.0)
    vote_all(place / "P.db", people)
    return place / "P.db"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return voted(tmp_path_factory.mktemp("project"))


def rows_of(project: Path, out: Path, form: Any = "own") -> list[dict[str, Any]]:
    connection = connect(project, write=False)
    export_project(connection, out, form)
    connection.close()
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_pair_is_one_row_whatever_people_said(project: Path, tmp_path: Path) -> None:
    rows = {row["prompt"]: row for row in rows_of(project, tmp_path / "own.jsonl")}
    assert len(rows) == 6
    agreed, contradicted, turned, ties, bad, mixed = (rows[f"Question {i}?"] for i in range(6))
    assert (agreed["chosen"], turned["chosen"]) == ("A 0", "B 2")
    assert agreed["win_prob"] > contradicted["win_prob"] > 0.5 and contradicted["chosen"] == "A 1"
    assert Counter(vote["choice"] for vote in contradicted["votes"]) == {"chosen": 2, "rejected": 1}
    assert [vote["choice"] for vote in turned["votes"]] == ["chosen"] * 3
    assert ties["tie"] and ties["win_prob"] == 0.5 and not agreed["tie"]
    assert bad["chosen"] == "A 4" and mixed["chosen"] == "A 5" and 0.5 < mixed["win_prob"] < agreed["win_prob"]
    assert all(row["weight"] == 1 for row in rows.values())  # three votes of an overlap of three
    assert agreed["source"] == {
        "chosen": {"model": "pairs: chosen", "digest": None, "seed": None},
        "rejected": {"model": "pairs: rejected", "digest": None, "seed": None},
    }
    vote = agreed["votes"][0]
    assert set(vote) == {"id", "by", "choice", "strength", "side", "ms", "at", "repeat_of", "gold"}
    assert vote["by"].startswith("a") and vote["side"] in ("left", "right") and 2000 <= vote["ms"] <= 6000
    assert not any(name in json.dumps(list(rows.values())) for name in PEOPLE)


def test_votes_have_the_side_that_was_pressed(project: Path, tmp_path: Path) -> None:
    connection = connect(project, write=False)
    query = "SELECT v.id, s.first_is_left, v.choice FROM vote v JOIN shown s ON s.id = v.shown"
    told = {number: (left, choice) for number, left, choice in connection.execute(query)}
    for row in rows_of(project, tmp_path / "own.jsonl"):
        for vote in row["votes"]:
            left, choice = told[vote["id"]]
            pressed = choice if choice in ("tie", "bad") else "left" if (choice == "first") == bool(left) else "right"
            assert vote["side"] == pressed
            if choice in ("first", "second"):
                assert (vote["choice"] == "chosen") == (row["chosen"].startswith("A") == (choice == "first"))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("form", HERE)
def test_each_format_is_read_without_a_fault(form: str, chat: bool, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    rows = rows_of(voted(tmp_path / "p", chat=chat), out, form)
    found = inspect_file(str(out))
    assert found.format.name == ("conversational" if form == "trl" and chat else HERE[form])
    assert found.tally.rows == found.tally.accepted == len(rows) and not found.tally.faults
    if form in ("own", "trl", "hh", "kto"):
        assert not found.tally.unread


def test_what_is_read_back_is_what_people_said(project: Path, tmp_path: Path) -> None:
    chosen = {
        "Question 0?": "A 0",
        "Question 1?": "A 1",
        "Question 2?": "B 2",
        "Question 4?": "A 4",
        "Question 5?": "A 5",
    }
    for form in ("own", "trl", "argilla", "label-studio", "hh"):
        rows_of(project, tmp_path / f"{form}.jsonl", form)
        records, _ = read_all(str(tmp_path / f"{form}.jsonl"))
        found = {}
        for record in records:
            assert isinstance(record, Preference)
            prompt = str(record.prompt).removeprefix("\n\nHuman: ").removesuffix("\n\nAssistant:")
            if not record.tie:
                found[prompt] = str(record.chosen).strip()
        assert found == chosen, form
        assert sum(isinstance(record, Preference) and record.tie for record in records) == (form in ("own", "argilla"))
    own, _ = read_all(str(tmp_path / "own.jsonl"))
    assert all(isinstance(record, Preference) and 0.5 <= record.figures["win_prob"][0] < 1 for record in own)


def test_both_bad_makes_two_disliked_responses(project: Path, tmp_path: Path) -> None:
    rows_of(project, tmp_path / "kto.jsonl", "kto")
    records, _ = read_all(str(tmp_path / "kto.jsonl"))
    labels = {(str(r.prompt), str(r.response)): r.desirable for r in records if isinstance(r, Label)}
    assert not labels[("Question 4?", "A 4")] and not labels[("Question 4?", "B 4")]
    assert labels[("Question 2?", "B 2")] and not labels[("Question 2?", "A 2")]
    assert not any(prompt == "Question 3?" for prompt, _ in labels) and len(labels) == 10


def test_a_battle_has_the_verdict_of_all(project: Path, tmp_path: Path) -> None:
    rows = rows_of(project, tmp_path / "arena.jsonl", "arena")
    assert [row["winner"] for row in rows] == ["model_a", "model_a", "model_b", "tie", "tie (bothbad)", "model_a"]
    assert {(row["model_a"], row["model_b"]) for row in rows} == {("pairs: chosen", "pairs: rejected")}


def test_votes_of_a_conversation_are_messages(tmp_path: Path) -> None:
    rows_of(voted(tmp_path / "p", chat=True), tmp_path / "own.jsonl")
    records, _ = read_all(str(tmp_path / "own.jsonl"))
    first = records[0]
    assert isinstance(first, Preference)
    assert first.prompt == (Message("user", "Question 0?"),) and first.chosen == (Message("assistant", "A 0"),)


def test_repeats_golds_and_weights(tmp_path: Path) -> None:
    """A repeat is listed and weighs nothing; a known answer is certain and weighs as one pair."""
    gold = write_rows(
        tmp_path / "gold.jsonl", [{"prompt": f"Gold {i}?", "chosen": "yes", "rejected": "no"} for i in range(4)]
    )
    data = write_rows(tmp_path / "pairs.jsonl", pairs(40))
    new_project(tmp_path / "P.db", data, gold_file=gold, overlap=2, repeats=0.3, golds=0.1)
    vote_all(tmp_path / "P.db", {"Ann": say("A"), "Bob": say("A", "B"), "Cat": say("B", "B", "B", "A")})
    rows = rows_of(tmp_path / "P.db", tmp_path / "own.jsonl")
    repeated = [row for row in rows if any(vote["repeat_of"] for vote in row["votes"])]
    assert repeated
    for row in repeated:
        numbers = {vote["id"]: vote["by"] for vote in row["votes"]}
        assert all(numbers[vote["repeat_of"]] == vote["by"] for vote in row["votes"] if vote["repeat_of"])
    for row in rows:
        by = Counter(vote["by"] for vote in row["votes"] if not vote["repeat_of"])
        assert set(by.values()) == {1}
        is_gold = row["prompt"].startswith("Gold")
        assert row["weight"] == (1 if is_gold else len(by) / 2)
        assert all(vote["gold"] == is_gold for vote in row["votes"])
        if is_gold:
            assert (row["chosen"], row["win_prob"]) == ("yes", 1)
        else:
            assert row["win_prob"] < 1


def test_pairs_without_votes_are_counted(tmp_path: Path) -> None:
    new_project(tmp_path / "P.db", write_rows(tmp_path / "pairs.jsonl", pairs(5)), overlap=1)
    out = tmp_path / "own.jsonl"
    command = ["collect", "export", str(tmp_path / "P.db"), str(out)]
    assert isinstance(CliRunner().invoke(app, command).exception, DataError)
    assert not out.exists()
    vote_all(tmp_path / "P.db", {"Ann": say("A")}, most=2)
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0 and "2 rows as own" in told.output and "left out: 3 pairs without votes" in told.output


def test_the_file_beside_an_export_names_its_votes(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "own.jsonl"
    rows_of(project, out)
    connection = connect(project, write=False)
    told = votes_behind(str(out))
    assert told == {"votes_sha256": project_digest(connection), "last_vote": 18}
    beside = json.loads((tmp_path / "own.jsonl.votes").read_text())
    assert beside["file_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest() and beside["data_format"] == "own"
    rows_of(project, tmp_path / "hh.jsonl", "hh")
    assert votes_behind(str(tmp_path / "hh.jsonl")) == told  # the votes, whatever the format
    out.write_text(out.read_text().replace("A 0", "A zero"))
    with caplog.at_level(logging.WARNING, logger="preftree"):
        assert votes_behind(str(out)) == {}
    assert "own.jsonl.votes is of another own.jsonl: the model card does not name the votes" in caplog.text
    assert votes_behind(str(tmp_path / "none.jsonl")) == {} and votes_behind("some/hub-id") == {}


def test_one_vote_more_is_another_digest(tmp_path: Path) -> None:
    path = voted(tmp_path, {"Ann": say("A"), "Bob": say("A")})
    before = project_digest(connect(path, write=False))
    assert project_digest(connect(path, write=False)) == before
    vote_all(path, {"Cat": say("B")}, most=1)
    assert project_digest(connect(path, write=False)) != before


def test_three_responses_are_three_pairs_and_no_contradiction(tmp_path: Path) -> None:
    """A > B, A > C, B > C: B won once and lost once, and a file may not say both of it."""
    rows = [{"prompt": "p", "chosen": x, "rejected": y} for x, y in (("A", "B"), ("A", "C"), ("B", "C"))]
    new_project(tmp_path / "P.db", write_rows(tmp_path / "pairs.jsonl", rows), overlap=1)
    vote_all(tmp_path / "P.db", {"Ann": say("A")})
    for form in HERE:
        rows_of(tmp_path / "P.db", tmp_path / f"{form}.jsonl", form)
        found = inspect_file(str(tmp_path / f"{form}.jsonl"))
        assert found.tally.rows == found.tally.accepted and not found.tally.faults, form
    records, _ = read_all(str(tmp_path / "kto.jsonl"))
    assert {str(r.response): r.desirable for r in records if isinstance(r, Label)} == {"A": True, "C": False}


@pytest.mark.parametrize("name", ["chosen", "by", "2"])
def test_wrong_votes_are_a_fault(name: str) -> None:
    row = pairs(1)[0] | {"win_prob": 0.7, "votes": [{"by": "a1", "choice": "chosen"}, {"by": "a2", "choice": name}]}
    if name == "chosen":
        assert isinstance(FORMATS["collected"].read(row), Preference)
        return
    with pytest.raises(RowFault, match=r"'votes.1.choice' must be one of chosen, rejected, tie, bad"):
        FORMATS["collected"].read(row)


def test_other_votes_are_no_votes_of_people() -> None:
    """A count of upvotes beside a pair is another format, and is told as not read."""
    row = pairs(1)[0] | {"votes": 12, "win_prob": 0.7}
    assert not FORMATS["collected"].detect(row) and FORMATS["explicit"].detect(row)
    assert FORMATS["explicit"].unread(row) == ["votes"]


def test_texts_that_transcripts_cannot_hold_are_counted(tmp_path: Path) -> None:
    data = pairs(3)
    data[1]["chosen"] = "A\n\nHuman: more"
    new_project(tmp_path / "P.db", write_rows(tmp_path / "pairs.jsonl", data), overlap=1)
    vote_all(tmp_path / "P.db", {"Ann": say("A")})
    connection = connect(tmp_path / "P.db", write=False)
    told = export_project(connection, tmp_path / "hh.jsonl", "hh")
    assert told.rows == 2 and told.left_out == {"pairs with texts that HH transcripts cannot hold": 1}
    with pytest.raises(ConfigError, match=r"OUT must end with \.jsonl"):
        export_project(connection, tmp_path / "hh.json", "hh")


def test_a_row_has_the_agreement_of_its_slice(tmp_path: Path) -> None:
    data = [row | ({"slice": name} if name is not None else {}) for row, name in zip(pairs(4), ("x", "", None, "x"))]
    new_project(tmp_path / "P.db", write_rows(tmp_path / "pairs.jsonl", data), overlap=2)
    vote_all(tmp_path / "P.db", {"Ann": say("A", "A", "B", "B"), "Bob": say("A", "B", "B", "B")})
    rows = {row["prompt"]: row for row in rows_of(tmp_path / "P.db", tmp_path / "own.jsonl")}
    assert rows["Question 0?"]["alpha_slice"] == rows["Question 3?"]["alpha_slice"] == 1
    # of all four pairs, one disagreement: observed 2 / 8, expected 2 x 3 x 5 / (8 x 7)
    whole = pytest.approx(1 - (2 / 8) / (2 * 3 * 5 / (8 * 7)))
    assert rows["Question 1?"]["alpha_slice"] == rows["Question 2?"]["alpha_slice"] == whole

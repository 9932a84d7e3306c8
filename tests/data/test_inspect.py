"""What `preftree data` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preftree.cli.data import app
from preftree.data.rows.texts import spread
from preftree.data.tools.inspect import inspect_file
from preftree.errors import DataError
from support.datafiles import EXAMPLES, HH, example_rows, read_all, write_rows

run = CliRunner()


def transcripts() -> list[dict[str, str]]:
    """Forty HH rows; 3, 17 and 40 end with an empty turn."""
    rows = [{side: text.replace("Hi?", f"Hi {i}?") for side, text in HH.items()} for i in range(40)]
    for line in (3, 17, 40):
        rows[line - 1]["chosen"] = rows[line - 1]["chosen"].removesuffix("I think it is good.")
    return rows


def test_json_is_one_object_with_exactly_these_keys(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "hh.jsonl.gz", transcripts())
    result = run.invoke(app, ["inspect", path, "--json"])
    assert result.exit_code == 0 and result.stderr == "" and result.stdout.count("\n") == 1
    found = json.loads(result.stdout)
    counts = {"rows", "accepted", "rejected", "faults", "repeated", "unread"}
    assert set(found) == {"format", *counts, "lengths", "length_bias"}
    assert (found["format"], found["rows"], found["accepted"]) == ("hh", 40, 37)
    assert [row["line"] for row in found["rejected"]] == [3, 17, 40]
    assert found["rejected"][0] == {
        "line": 3,
        "field": "chosen",
        "fault": "empty_response",
        "message": "'chosen' is an empty response; drop the row",
    }
    assert found["faults"] == {"empty_response": 3}
    assert found["lengths"]["unit"] == "characters"
    assert found["lengths"]["chosen"] == {"min": 20, "median": 20, "mean": 20.0, "max": 20}


def test_json_names_the_file_in_a_folder(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [EXAMPLES["explicit"]])
    write_rows(tmp_path / "b.jsonl", [EXAMPLES["explicit"] | {"chosen": ""}])
    found = json.loads(run.invoke(app, ["inspect", str(tmp_path), "--json"]).stdout)
    assert found["rejected"][0]["file"] == str(tmp_path / "b.jsonl")


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_file_without_one_good_row_ends_with_an_error(words: tuple[str, ...], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES["explicit"] | {"chosen": ""}] * 2)
    result = run.invoke(app, ["inspect", path, *words])
    assert "empty_response" in result.stdout
    assert (
        str(result.exception)
        == f"{path}: every row is rejected, the first since 'chosen' is an empty response; drop the row"
    )


def test_json_survives_any_text(tmp_path: Path) -> None:
    rows = [{"prompt": "\ud800", "chosen": "a", "rejected": "b"}, {"prompt": "ü", "chosen": "\u2028", "rejected": "é"}]
    rows.append({"prompt": "x", "chosen": "y", "rejected": "z", "weight": float("nan")})  # type: ignore[dict-item] - hostile
    path = write_rows(tmp_path / "rows.jsonl", rows)
    found = json.loads(run.invoke(app, ["inspect", path, "--json"]).stdout)
    assert found["faults"] == {"bad_text": 1, "empty_response": 1, "bad_value": 1}
    assert found["accepted"] == 0 and found["lengths"] == {"unit": "characters"}


def test_the_summary_names_format_counts_faults_and_a_pair(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "hh.jsonl", transcripts())
    result = run.invoke(app, ["inspect", path], env={"COLUMNS": "200"})
    for words in (
        "hh: HH transcripts",
        "40 rows, 37 accepted, 3 rejected (7.5%)",
        "empty_response",
        "3, 17, 40",
        "a run would stop",
        "I think it is good.",
        "I think it is bad.",
        f"{path}:1",
    ):
        assert words in result.stdout, words
    assert result.exit_code == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_format_has_a_summary(name: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", example_rows(name))
    result = run.invoke(app, ["inspect", path])
    assert result.exit_code == 0 and f"\n{name}: " in result.stdout and "1 rows, 1 accepted" in result.stdout


def test_a_text_cannot_change_the_terminal(tmp_path: Path) -> None:
    row = {"prompt": "\x1b[2J\x1b]0;owned\x07", "chosen": "[bold]a[/bold]", "rejected": "b\r\x9b"}
    path = write_rows(tmp_path / "rows.jsonl", [row])
    shown = run.invoke(app, ["inspect", path]).stdout
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(shown)
    assert "\\x1b[2J" in shown and "[bold]a[/bold]" in shown


def test_a_ranking_is_counted_in_pairs_on_request(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES["ultrafeedback"]])
    assert inspect_file(path).num_records == 1
    assert inspect_file(path, kind="pair").num_records == 5  # 6 pairs of 4, less the one of equal scores
    result = run.invoke(app, ["inspect", path, "--kind", "pair"])
    assert "5 records" in result.stdout and "margin 1.5" in result.stdout
    result = run.invoke(app, ["inspect", path, "--kind", "demonstration", "--side", "chosen"])
    assert "Red." in result.stdout and "Blue." not in result.stdout


def test_errors_are_sentences(tmp_path: Path) -> None:
    result = run.invoke(app, ["inspect", str(tmp_path / "missing.jsonl"), "--json"])
    assert isinstance(result.exception, DataError) and result.stdout == ""
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES["hh"]])
    result = run.invoke(app, ["inspect", path, "--kind", "demonstration"])
    assert isinstance(result.exception, DataError) and "side=chosen" in str(result.exception)
    assert run.invoke(app, ["inspect", path, "--kind", "pairs"]).exit_code == 2


def test_convert_reports_on_stderr(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "hh.jsonl", transcripts())
    out = tmp_path / "out.jsonl"
    result = run.invoke(app, ["convert", path, str(out), "--max-rejected", "0.1"])
    assert result.exit_code == 0 and result.stdout == ""
    assert "37 rows written from 40, 3 rejected" in result.stderr and f"{path}:17: " in result.stderr
    assert len(read_all(str(out))[0]) == 37
    result = run.invoke(app, ["convert", path, str(tmp_path / "none.jsonl")])
    assert isinstance(result.exception, DataError) and not (tmp_path / "none.jsonl").exists()


def test_spread_by_hand() -> None:
    from collections import Counter

    assert spread(Counter({1: 1, 2: 1, 9: 1})) == {"min": 1, "median": 2, "mean": 4.0, "max": 9}
    assert spread(Counter({5: 3})) == {"min": 5, "median": 5, "mean": 5.0, "max": 5}

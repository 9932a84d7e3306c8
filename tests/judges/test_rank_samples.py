"""Samples ranked by a reward: which belong together, in which order, and what is left out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import DataError
from preftree.judges.rank_samples import Counts, rank_file
from preftree.records import Message, Preference, Ranking
from support.datafiles import read_all, said, write_rows


def longest(prompts: Any, responses: Any) -> np.ndarray:
    return np.array([float(len(one)) for one in responses])


def rows(prompt: Any, *responses: str) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "response": one, "sample": number} for number, one in enumerate(responses)]


def test_four_samples_make_a_ranking_and_six_pairs(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "samples.jsonl", rows("p", " bb", " dddd", " a", " ccc") + rows("p", " x", " yy"))
    counts = rank_file(path, tmp_path / "out.jsonl", longest)
    assert counts == Counts(rows=6, rankings=2, kept=6)
    records, tally = read_all(str(tmp_path / "out.jsonl"))
    assert records == [
        Ranking("p", (" dddd", " ccc", " bb", " a"), figures={"scores": (5.0, 4.0, 3.0, 2.0)}),
        Ranking("p", (" yy", " x"), figures={"scores": (3.0, 2.0)}),
    ]
    assert tally.num_rejected == 0
    done = CliRunner().invoke(
        app, ["data", "convert", str(tmp_path / "out.jsonl"), str(tmp_path / "pairs.jsonl"), "--kind", "pair"]
    )
    assert done.exit_code == 0, done.output
    pairs = read_all(str(tmp_path / "pairs.jsonl"))[0]
    expected = list(itertools.combinations((" dddd", " ccc", " bb", " a"), 2))
    assert [(pair.chosen, pair.rejected) for pair in pairs if isinstance(pair, Preference)] == [
        *expected,
        (" yy", " x"),
    ]


def test_what_cannot_be_ranked_is_counted(tmp_path: Path) -> None:
    samples = [*rows("p", " a", "", " \ufffd", " a ", " bb"), *rows("q", " a", " b"), *rows("r", " a")]
    path = write_rows(tmp_path / "samples.jsonl", samples)
    counts = rank_file(path, tmp_path / "out.jsonl", longest)
    assert counts == Counts(rows=8, rankings=1, kept=2, faulty=2, repeated=1, undecided=2)
    assert read_all(str(tmp_path / "out.jsonl"))[0] == [Ranking("p", (" bb", " a"), figures={"scores": (3.0, 2.0)})]
    path = write_rows(tmp_path / "same.jsonl", rows("q", " a", " b"))
    with pytest.raises(DataError, match="no prompt has two responses that differ in reward"):
        rank_file(path, tmp_path / "none.jsonl", longest)
    assert not (tmp_path / "none.jsonl").exists()
    with pytest.raises(DataError, match="is the input"):
        rank_file(path, Path(path), longest)
    path = write_rows(tmp_path / "bad.jsonl", [{"prompt": "p", "completion": "a"}])
    with pytest.raises(DataError, match=r"bad\.jsonl:1: 'response' is missing"):
        rank_file(path, tmp_path / "none.jsonl", longest)


def test_blocks_and_conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preftree.judges.rank_samples.BLOCK", 2)
    asked: list[int] = []
    turns = [said("user", "hi?")]
    path = write_rows(tmp_path / "samples.jsonl", rows(turns, "b", "aaa") + rows("p", " x", " yyy", " zz"))
    rank_file(path, tmp_path / "out.jsonl", lambda p, r: (asked.append(len(r)), longest(p, r))[1])
    assert asked == [2, 3]  # whole prompts, also where one has more than a block
    first, second = read_all(str(tmp_path / "out.jsonl"))[0]
    assert second == Ranking("p", (" yyy", " zz", " x"), figures={"scores": (4.0, 3.0, 2.0)})
    answers = ((Message("assistant", "aaa"),), (Message("assistant", "b"),))
    assert first == Ranking((Message("user", "hi?"),), answers, figures={"scores": (3.0, 1.0)})


def test_the_verb(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("def length(prompt, response):\n    return len(response)\n")
    path = write_rows(tmp_path / "samples.jsonl", rows("p", " a", " bb"))
    command = ["data", "rank", path, str(tmp_path / "out.jsonl"), "--reward", f"{tmp_path / 'rules.py'}:length"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "1 rankings of 2 responses, from 2" in done.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text())["scores"] == [3.0, 2.0]

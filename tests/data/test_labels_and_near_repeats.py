"""What inspect says about the labels' length, and about rows that are nearly repeated."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.data.tools.inspect import inspect_file
from preftree.data.tools.near_repeats import SIMILARITY, NearRepeats
from support.datafiles import said, write_rows

WORDS = [f"word{number}" for number in range(500)]


def bias(tmp_path: Path, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    return inspect_file(write_rows(tmp_path / "rows.jsonl", rows)).length_bias.as_json()


def test_length_of_pairs(tmp_path: Path) -> None:
    """Longer, shorter, as long, and a tie that says nothing: (1 + 0 + .5) / 3."""
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "chosen": "12345", "rejected": "123"},
        {"prompt": "b", "chosen": "1", "rejected": "123"},
        {"prompt": "c", "chosen": "123", "rejected": "321"},
        {"prompt": "d", "chosen": "123456789", "rejected": "1", "tie": True},
    ]
    assert bias(tmp_path, rows) == {"preferred_longer": 0.5, "mean_preferred": 3.0, "mean_other": 3.0}
    chat = [{"prompt": [said("user", "a")], "chosen": [said("assistant", "123")], "rejected": [said("assistant", "1")]}]
    assert bias(tmp_path, chat) == {"preferred_longer": 1.0, "mean_preferred": 3.0, "mean_other": 1.0}


def test_length_of_rankings_and_labels(tmp_path: Path) -> None:
    ranking = [{"prompt": "a", "responses": ["333", "1", "22"]}]  # 3 > 1, 3 > 2, 1 < 2
    assert bias(tmp_path, ranking) == {"preferred_longer": 0.6667, "mean_preferred": 2.3, "mean_other": 1.7}
    labels = [
        {"prompt": "a", "completion": text, "label": liked}
        for text, liked in (("333", True), ("1", True), ("22", False), ("4", False))
    ]  # 3 > 2, 3 > 1, 1 < 2, 1 = 1
    assert bias(tmp_path, labels) == {"preferred_longer": 0.625, "mean_preferred": 2.0, "mean_other": 1.5}
    assert bias(tmp_path, labels[:2]) is None
    assert bias(tmp_path, [{"prompt": "a", "completion": "b"}]) is None


def sentence(rng: random.Random, words: int) -> list[str]:
    return rng.choices(WORDS, k=words)


def jaccard(one: list[str], other: list[str]) -> float:
    """The slow way: sets of five words in a row."""
    sets = [{tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))} for words in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_near_repeats_against_all_pairs_of_rows(tmp_path: Path) -> None:
    """Rows with a few words changed, and the same rows with other answers; MinHash may miss those near the bound."""
    rng = random.Random(0)
    texts = [(sentence(rng, 300), sentence(rng, 40)) for _ in range(40)]
    for prompt, answer in list(texts):
        changed = [word if rng.random() > 0.004 else "new" for word in prompt]
        texts.append((changed, answer if rng.random() < 0.6 else sentence(rng, 40)))
    rows = [{"prompt": " ".join(prompt), "completion": " ".join(answer)} for prompt, answer in texts]
    least = [
        max((min(jaccard(p, q), jaccard(a, b)) for q, b in texts[:i]), default=0.0) for i, (p, a) in enumerate(texts)
    ]
    near = NearRepeats()
    inspection = inspect_file(write_rows(tmp_path / "rows.jsonl", rows), near_repeats=near)
    surely = sum(SIMILARITY + 0.1 <= value < 1 for value in least)
    at_most = sum(SIMILARITY <= value < 1 for value in least)  # equal rows are repeats, and left out before
    assert 5 <= surely <= near.count <= at_most
    assert inspection.as_json()["near_repeats"]["rows"] == near.count
    where, earlier = near.first[0]
    assert where.line == earlier.line + 40


def test_case_punctuation_and_scripts_without_spaces(tmp_path: Path) -> None:
    def pair(prompt: str, answer: str) -> dict[str, str]:
        return {"prompt": prompt, "chosen": answer, "rejected": "No."}

    rows = [
        pair("How do I boil an egg?", "Put it in water."),
        pair("how do I boil an EGG", "Put it in water!"),
        pair("今日はとても良い天気ですから、外で食べましょう。", "そうしましょう"),
        pair("今日はとても良い天気ですから、外で食べましょう", "そうしましょう!"),
        pair("How do I boil an egg?", "I will not say."),
    ]
    near = NearRepeats()
    inspect_file(write_rows(tmp_path / "rows.jsonl", rows), near_repeats=near)
    assert [(where.line, earlier.line) for where, earlier in near.first] == [(2, 1), (4, 3)]


def test_they_are_printed(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": prompt, "chosen": "Put it in water.", "rejected": "No."} for prompt in ("A B!", "a b")],
    )
    said_lines = " ".join(CliRunner().invoke(app, ["data", "inspect", path, "--near-repeats"]).stdout.split())
    assert "the preferred response is the longer one in 100.0% of comparisons" in said_lines
    assert "near repeats: 1 rows are nearly an earlier one; first" in said_lines
    assert "near repeats" not in CliRunner().invoke(app, ["data", "inspect", path]).stdout


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasketch", None)
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    result = CliRunner().invoke(app, ["data", "inspect", path, "--near-repeats"])
    assert "pip install 'preftree[near]'" in str(result.exception)

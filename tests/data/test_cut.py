"""Prompts cut from plain texts: as many tokens as asked for, the text's own first ones, and nothing lost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.data.tokens.encoder import make_encoder
from preftree.data.tools.cut_texts import cut_file
from preftree.errors import ConfigError, DataError
from support.datafiles import write_rows
from support.tokenizers import plain_tokenizer

TEXTS = [
    f"The caf\u00e9 {number} was good, I think; it is the capital of France \U0001f600 {number}."
    for number in range(80)
]


def cut_rows(path: str, out: Path, **options: object) -> list[dict[str, str]]:
    cut_file(path, out, plain_tokenizer(), **{"fewest": 2, "most": 8} | options)  # pyright: ignore[reportArgumentType]
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_prompt_is_how_the_text_begins_for_the_model(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "texts.jsonl", [{"text": text, "label": 1} for text in TEXTS])
    rows = cut_rows(path, tmp_path / "out.jsonl", format_name="text")
    assert [row["prompt"] + row["completion"] for row in rows] == TEXTS
    encoder = make_encoder(plain_tokenizer())
    sizes = Counter()
    for row, text in zip(rows, TEXTS):
        ids, own = encoder.first([text, row["prompt"]])
        assert own.tolist() == ids[: len(own)].tolist()
        sizes[len(own)] += 1
    assert min(sizes) >= 2 and max(sizes) <= 8 and len(sizes) >= 5
    assert cut_rows(path, tmp_path / "again.jsonl", format_name="text") == rows
    assert cut_rows(path, tmp_path / "other.jsonl", format_name="text", seed=1) != rows
    some = cut_rows(path, tmp_path / "some.jsonl", format_name="text", num_rows=10)
    assert len(some) == 10 and [row for row in rows if row in some] == some


def test_every_length_is_as_likely(tmp_path: Path) -> None:
    texts = [{"text": f"a b c d e f g h i j k {number}"} for number in range(700)]
    path = write_rows(tmp_path / "texts.jsonl", texts)
    rows = cut_rows(path, tmp_path / "out.jsonl")
    encoder = make_encoder(plain_tokenizer())
    sizes = Counter(len(ids) for ids in encoder.first([row["prompt"] for row in rows]))
    assert set(sizes) == set(range(2, 9))
    assert all(60 < count < 140 for count in sizes.values())  # 100 each, 4 standard deviations


def test_what_cannot_be_cut_is_rejected(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in (*TEXTS, "a", "b c  ")])
    tally, written = cut_file(path, tmp_path / "out.jsonl", plain_tokenizer(), fewest=2, most=8)
    assert (written, tally.faults) == (len(TEXTS), Counter(empty_response=2))
    with pytest.raises(ConfigError, match="no fewer than the fewest: 8-2"):
        cut_file(path, tmp_path / "out.jsonl", plain_tokenizer(), fewest=8, most=2)
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(DataError, match="wanted plain text"):
        cut_rows(pairs, tmp_path / "other.jsonl")
    with pytest.raises(DataError, match="is the input"):
        cut_rows(path, Path(path))


def test_the_verb(tmp_path: Path) -> None:
    plain_tokenizer().save_pretrained(tmp_path / "model")
    path = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    command = ["data", "cut", path, str(tmp_path / "out.jsonl"), "--model", str(tmp_path / "model"), "--tokens"]
    done = CliRunner().invoke(app, [*command, "3"])
    assert done.exit_code == 0, done.output
    prompts = [json.loads(line)["prompt"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {len(ids) for ids in make_encoder(plain_tokenizer()).first(prompts)} == {3}
    wrong = CliRunner().invoke(app, [*command, "2-x"])
    assert isinstance(wrong.exception, ConfigError) and "must be a number or two as 2-8" in str(wrong.exception)

"""`preftree cache` and `preftree doctor`: sizes, ages and owners, what is removed and what stays, figures by hand."""

from __future__ import annotations

import json
import mmap
import os
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from preftree.cli.cache import size_in_words
from preftree.cli.main import app
from preftree.errors import ConfigError
from preftree.runtime import machine
from preftree.train.dpo import run_dpo
from support.small_runs import dpo_config, make_model, make_pairs

DAYS = {"a": 40, "b": 20, "c": 10, "d": 0}
"""Days since the last use of four stores of 1,000 to 4,000 bytes."""


def call(*words: object) -> str:
    done = CliRunner().invoke(app, ["cache", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for number, (letter, days) in enumerate(DAYS.items(), 1):
        folder = tmp_path / "tokens" / (letter * 32)
        folder.mkdir(parents=True)
        (folder / "examples.arrow").write_bytes(b"x" * 1000 * number)
        moment = time.time() - days * 86400
        os.utime(folder / "examples.arrow", (moment, moment))
    (tmp_path / "tokens/files.json").write_text("{}")
    return tmp_path


def left(cache: Path) -> str:
    return "".join(sorted(path.name[0] for path in (cache / "tokens").glob("?" * 32)))


@pytest.mark.parametrize(
    ("words", "stay"),
    [
        (("--older-than", "15d"), "cd"),
        (("--older-than", "15"), "cd"),
        (("--older-than", "0"), "d"),  # d was used within the hour
        (("--keep", "7kB"), "cd"),  # 10 kB: without a 9, without b 7
        (("--keep", "0GB"), "d"),
        (("--older-than", "30d", "--keep", "5kB"), "d"),
        (("--older-than", "0", "--dry-run"), "abcd"),
    ],
)
def test_what_is_old_or_too_much_is_removed(cache: Path, words: tuple[str, ...], stay: str) -> None:
    said = call("prune", *words, "--cache", cache)
    assert left(cache) == stay
    assert ("would be removed" in said) == ("--dry-run" in words)
    assert (cache / "tokens/files.json").exists()


def test_what_a_process_has_mapped_stays(cache: Path) -> None:
    with (cache / "tokens" / ("a" * 32) / "examples.arrow").open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    file = cache / "tokens" / ("a" * 32) / "examples.arrow"
    os.utime(file, (0, 0))  # opening it was a use
    call("prune", "--older-than", "1d", "--cache", cache)
    assert left(cache) == "ad"
    mapped.close()
    os.utime(file, (0, 0))
    call("prune", "--older-than", "1d", "--cache", cache)
    assert left(cache) == "d"


def test_what_a_process_has_mapped_stays_under_a_link_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache / "tokens" / ("a" * 32) / "examples.arrow"
    link = cache.parent / "link"
    link.symlink_to(cache, target_is_directory=True)
    monkeypatch.chdir(cache.parent)
    for name in (str(link), cache.name):
        with file.open("r+b") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        os.utime(file, (0, 0))
        call("prune", "--older-than", "1d", "--cache", name)
        assert "a" in left(cache)
        mapped.close()


def test_entries_are_listed_with_size_age_and_owner(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 8)
    run_dpo(dpo_config(tmp_path, "run", "max_steps=1"))
    rows = json.loads(call("list", "--json", "--cache", tmp_path / "cache"))["entries"]
    assert {row["kind"]: row["of"] for row in rows} == {
        "tokens": str(tmp_path / "pairs.jsonl"),
        "table": f"start: {tmp_path / 'model'}",
    }
    for row in rows:
        assert row["bytes"] == sum(file.stat().st_size for file in Path(row["path"]).rglob("*") if file.is_file())
        assert 0 <= row["days_since_use"] < 0.01
    said = call("list", "--cache", tmp_path / "cache")
    assert "2 entries" in said and all(len(line) <= 80 for line in said.splitlines()[:-1])


def test_wrong_words_are_refused(cache: Path) -> None:
    for words, reason in (((), "give --older-than"), (("--keep", "5"), "--keep must"), (("--older-than", "x"), "days")):
        with pytest.raises(ConfigError, match=reason):
            call("prune", *words, "--cache", cache)
    assert [size_in_words(size) for size in (0, 999, 1500, 2.5e9, 3e13)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 GB",
        "30 TB",
    ]


def test_the_doctor_says_what_this_machine_can_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """24 GB: two thirds are 16, which is 1 B weights at 16 bytes, 4 B at 4."""
    monkeypatch.setenv("PREFTREE_CACHE", str(tmp_path))
    assert machine.largest_models(24 * 10**9)["all weights"] == pytest.approx(1e9)
    assert machine.largest_models(24 * 10**9)["lora"] == pytest.approx(4e9)
    facts = json.loads(CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False).output)
    assert facts["memory_bytes"] == psutil.virtual_memory().total
    assert facts["devices"][-1]["bf16"] in ("native", "emulated") and facts["cache"]["bytes"] == 0
    assert {"torch", "transformers", "python"} <= facts["versions"].keys()
    said = CliRunner().invoke(app, ["doctor"], catch_exceptions=False).output
    assert all(len(line) <= 80 for line in said.splitlines()) and "lora, quantize=nf4" in said

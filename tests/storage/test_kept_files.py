"""Every file that Preftree leaves, damaged; and every verb on a disk that is too small or read-only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.damage import KINDS, count, run_trials


def test_a_few_damages_of_every_kind(tmp_path: Path) -> None:
    trials = run_trials(tmp_path / "place", 22, seed=1)
    assert [one for one in trials if one.wrong] == []
    assert len(trials) == 22


@pytest.mark.slow
def test_no_damage_is_silent_and_none_is_a_traceback(tmp_path: Path) -> None:
    trials = run_trials(tmp_path / "place", 500, seed=0)
    assert [one for one in trials if one.wrong] == []
    assert len(trials) == 500
    assert count(trials, lambda one: one.kind).keys() == set(KINDS)
    by_file = count(trials, lambda one: one.target)
    assert all(found["found"] for name, found in by_file.items() if name != "digests of weights")


def _small_disk(tmp_path: Path, *words: str) -> dict[str, object]:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine does not let an ordinary user mount a file system of its own")
    command = ["unshare", "-rm", sys.executable, "-m", "support.small_disk", str(tmp_path), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_read_only_disk_is_one_sentence_of_every_verb(tmp_path: Path) -> None:
    result = _small_disk(tmp_path, "--read-only")
    assert result["faults"] == []
    assert result["read_only"] == 20


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(tmp_path: Path) -> None:
    result = _small_disk(tmp_path)
    assert result["faults"] == []
    stopped = result["stopped"]
    assert isinstance(stopped, dict)
    assert stopped["dpo"] >= 10
    assert all(stopped.values())

"""What is planted in small real runs is named by the check that is for it, and a healthy run by none.

The whole matrix, on more seeds and a larger world, is `make bench-diagnose`; docs/report.md shows it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "diagnose.py"
Runs: TypeAlias = dict[str, dict[str, dict[str, Any]]]
CASES = "dpo 1,beta .01,flipped"


def examine(out: Path) -> tuple[str, Runs]:
    """In its own process, where no types are checked: four times faster."""
    command = [sys.executable, str(BENCHMARK), "--size", "tiny", "--seeds", "3", "--cases", CASES, "--out", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / "matrix.json").read_text())["runs"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted") / "out"


@pytest.fixture(scope="module")
def runs(out: Path) -> Runs:
    said, runs = examine(out)
    assert said.startswith("3 of 3 runs to make")
    return runs


def test_planted_failures_are_named_and_a_healthy_run_is_not(runs: Runs) -> None:
    assert runs["dpo 1"]["3"]["found"] == runs["dpo 1"]["3"]["missing"] == []
    assert runs["flipped"]["3"]["found"] == ["label_noise"]
    assert set(runs["beta .01"]["3"]["found"]) >= {"displacement", "coverage"}


@pytest.mark.slow
def test_a_second_start_only_examines(out: Path, runs: Runs) -> None:
    said, again = examine(out)
    assert said.startswith("0 of 3 runs to make")
    assert again == runs

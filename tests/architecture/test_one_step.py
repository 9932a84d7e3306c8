"""A warm DPO step can be read: few files, few nouns, and a short way from the loop to the formula."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import preftree

MOST_FILES = 36
"""What it is today; scoring, trees and the loss alone are 18."""

MOST_CLASSES = 39
"""What it is today."""

MOST_CALLS = 5


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    paths = [str(Path(preftree.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.one_step", str(tmp_path_factory.mktemp("step"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_step_enters_few_files(step: dict[str, list[str]]) -> None:
    assert 3 <= len(step["files"]) <= MOST_FILES, step["files"]


def test_a_step_needs_few_classes(step: dict[str, list[str]]) -> None:
    assert 3 <= len(step["classes"]) <= MOST_CLASSES, step["classes"]


def test_the_formula_is_near_the_loop(step: dict[str, list[str]]) -> None:
    assert 1 <= len(step["calls"]) <= MOST_CALLS, step["calls"]
    assert step["calls"][-1] == "losses/pair/logistic.py:dpo"

"""SIGKILL at random moments of a run that saves every step: it goes on, and ends where a run left alone ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parents[1])


@pytest.mark.parametrize(
    ("kills", "steps", "mid_save"), [(3, 40, 0), pytest.param(40, 600, 20, marks=pytest.mark.slow)]
)
def test_a_killed_run_ends_as_if_left_alone(kills: int, steps: int, mid_save: int) -> None:
    # A process of its own: it forks, and a fork of this one would share its threads.
    command = [sys.executable, "-m", "support.kill_runs", "--kills", str(kills), "--steps", str(steps)]
    environment = os.environ | {"PYTHONPATH": TESTS}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["failures"] == []
    assert result["kills"] == kills
    assert result["mid_save"] >= mid_save, "too few kills fell into a save to prove anything"

"""SIGKILL in the saves of a run, and at random moments: it goes on, and ends where a run left alone ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parents[1])


@pytest.mark.parametrize(("kills", "steps"), [(5, 40), pytest.param(40, 200, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_if_left_alone(kills: int, steps: int) -> None:
    # A process of its own: it forks, and a fork of this one would share its threads.
    command = [sys.executable, "-m", "support.kill_runs", "--kills", str(kills), "--steps", str(steps)]
    environment = os.environ | {"PYTHONPATH": TESTS}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["failures"] == []
    assert result["kills"] == kills
    # Of five kills in turn three are aimed at a save and one at a deletion.
    assert result["mid_save"] >= kills * 3 // 5
    assert result["mid_delete"] >= kills // 5

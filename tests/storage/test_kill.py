"""SIGKILL before each call of a save, and at random moments: whatever was acknowledged must be there afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parents[1])


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_every_kill_leaves_a_good_checkpoint(kills):
    # A process of its own: it forks, and a fork of this one would share its threads and its output.
    command = [sys.executable, "-m", "support.kill_saves", "--kills", str(kills), "--seed", str(kills)]
    environment = os.environ | {"PYTHONPATH": TESTS}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(result)
    assert result["failures"] == []
    assert result["resumed"] == kills
    # Of five kills in turn three are aimed at a save and one at a deletion.
    assert result["mid_save"] >= kills * 3 // 5
    assert result["mid_delete"] >= kills // 5

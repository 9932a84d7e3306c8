"""No acknowledged vote is lost when the server is killed, and none is there twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import preftree

PATHS = [str(Path(preftree.__file__).parents[1]), str(Path(__file__).parents[1])]


def killed(folder: Path, kills: int) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}
    command = [sys.executable, "-m", "support.kill_collect", str(folder), "--kills", str(kills)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(found: dict[str, Any], at_least: int) -> None:
    assert found["acked"] >= at_least, found
    assert found["lost"] == found["changed"] == found["twice"] == found["miscounted"] == 0, found
    assert found["integrity"] == "ok", found
    wanted, shown = found["work_left"]
    assert wanted == shown > 0, found  # whatever was leased at a kill is handed out again


def test_twelve_kills_lose_nothing(tmp_path: Path) -> None:
    check(killed(tmp_path, 12), 300)


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    check(killed(tmp_path, 100), 3000)

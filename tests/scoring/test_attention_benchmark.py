from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks/attention.py"


def test_the_table_has_a_row_for_each_path() -> None:
    words = ["--sizes", "9m", "--profiles", "hh", "k4", "--budget", "400", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), *words], check=True, capture_output=True, text=True
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "9m" in line]
    assert [(row[1], row[4]) for row in rows] == [
        (profile, path) for profile in ("hh", "k4") for path in ("sdpa", "flex", "varlen")
    ]
    for row in rows:
        assert 0 < int(row[2]) <= 400 < int(row[3])
        assert len(row) == 9
        if row[4] == "sdpa":
            assert 0 < float(row[5]) < float(row[6])


def test_a_budget_below_a_tree_is_said() -> None:
    words = ["--sizes", "9m", "--profiles", "long", "--budget", "400", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), *words], check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "--budget 400 is too small for a tree of profile long" in done.stderr

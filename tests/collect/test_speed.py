"""The server keeps up: votes a second, waits of a hundred people, and a project of a million votes."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.measure_collect import large_project, raw_fsync, vote_rate

pytestmark = pytest.mark.slow


def test_eight_people_and_a_hundred(tmp_path: Path) -> None:
    raw = raw_fsync(tmp_path)
    eight, hundred = vote_rate(tmp_path, 8, 5.0), vote_rate(tmp_path, 100, 8.0, think=0.5)
    # Commits of several people are one fsync: more votes than a writer alone could keep, on any disk.
    assert eight["votes_per_second"] > min(400, raw["per_second"]), (raw, eight)
    assert hundred["both_p99"] < max(150, 25 * raw["p99"]), (raw, hundred)


def test_a_million_votes(tmp_path: Path) -> None:
    found = large_project(tmp_path)
    assert found["ready"] < 3 and found["next_p99"] < max(20, 5 * raw_fsync(tmp_path)["p99"]), found
    assert max(found["admin_pages"]) < 2, found

"""Votes a second and waits of a served project as ratios to the disk's fsync; kills, also of other ways to keep votes.

    PYTHONPATH=tests python benchmarks/collect.py --out runs/collect [--kills 100]

Prints a JSON object a line. The folder must be on the disk that is to be measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from support.kill_collect import kill_many
from support.measure_collect import large_project, raw_fsync, vote_rate
from support.other_stores import kill_others


def tell(name: str, figures: dict[str, Any]) -> None:
    shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"measured": name, **shown}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure `preftree collect`.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)

    def folder() -> Path:
        return Path(tempfile.mkdtemp(dir=given.out))

    raw = raw_fsync(folder())
    tell("fsync of 4 KiB, one after the other", raw)
    for people, think in ((1, 0.0), (8, 0.0), (50, 0.0), (100, 0.5)):
        found = vote_rate(folder(), people, given.seconds, think)
        found["votes_per_fsync"] = found["votes_per_second"] / raw["per_second"]
        found["both_p99_over_fsync_p99"] = found["both_p99"] / raw["p99"]
        tell(f"{people} people who think for at most {think} s", found)
    tell("a large project", large_project(folder()))
    tell("kills of the project", kill_many(folder(), given.kills, seed=0))
    for kind in ("memory", "append"):
        tell("kills of other ways", kill_others(kind, folder(), given.kills))


if __name__ == "__main__":
    main()

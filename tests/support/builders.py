"""Processes that fill one reference table: two at the same time, and one that is killed at it.

    PYTHONPATH=tests python -m support.builders FOLDER

Prints one JSON object. One process imports everything and forks the builders, which takes less time than starting each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from preftree.reference import build as build_module
from preftree.reference.build import BuildReport, build_reference
from support.models import tiny_llama
from support.tables import CountingScorer, some_pairs, table_of

PAIRS = 40


def build_slowly(root: Path) -> dict[str, object]:
    """Small chunks and a pause after each forward, so that two builders meet at every chunk."""
    scorer = CountingScorer(tiny_llama())
    table = table_of(root, scorer)
    said: list[str] = []

    def pause(report: BuildReport) -> None:
        time.sleep(0.005)

    pairs = some_pairs(PAIRS)
    report = build_reference(table, scorer, pairs, budget=128, say=said.append, progress=pause)
    values = table.gather([sequence for pair in pairs for sequence in pair])
    return {
        "scored": report.num_scored,
        "cached": report.num_cached,
        "responses": scorer.responses,
        "waited": len(said),
        "sum": float(values.astype("f8").sum()),
    }


def fork_builder(root: Path, start: int) -> tuple[int, int]:
    """A child that begins when `start` has a byte for it; returns its id and where its result will come."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.read(start, 1)
            os.write(writer, json.dumps(build_slowly(root)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    return child, reader


def main() -> None:
    torch.set_num_threads(1)
    build_module._CHUNK_TOKENS = 300
    build_module.max = lambda *sizes: sizes[0]
    root = Path(sys.argv[1])
    waiting, go = os.pipe()

    builders = [fork_builder(root / "two", waiting) for _ in range(2)]
    os.write(go, b"12")
    results = []
    for child, reader in builders:
        results.append(json.loads(os.read(reader, 4096) or "null"))
        os.waitpid(child, 0)

    child, _ = fork_builder(root / "killed", waiting)
    os.write(go, b"3")
    scorer = CountingScorer(tiny_llama())
    folder = table_of(root / "killed", scorer).folder
    while len(list(folder.glob("part-*"))) < 3:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    table = table_of(root / "killed", scorer)
    held = len(table)
    again = build_reference(table, scorer, some_pairs(PAIRS), budget=512)
    killed = {
        "was_killed": os.WIFSIGNALED(status),
        "held": held,
        "damaged": table.set_aside,
        "scored_again": again.num_scored,
        "cached": again.num_cached,
    }
    print(json.dumps({"two": results, "killed": killed}))


if __name__ == "__main__":
    main()

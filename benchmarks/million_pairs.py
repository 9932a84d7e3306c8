"""One million pairs on a laptop: time to the first step and peak memory, fresh, from the cache, and resumed.

    python benchmarks/million_pairs.py --out runs/million [--pairs 1000000] [--steps 4]

The pairs are short (some 40 tokens) and the model is tiny, so that what counts is what grows with the rows: the token
store, the order of the steps, the index of the reference table. A run of the same file is then started again elsewhere,
with everything cached, and one is ended half way and resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import common
from data import write

VOCABULARY = common.VOCABULARY = 600  # the head's work is none of what is measured here

SECONDS_BETWEEN_LOOKS = 0.05


class Cost(NamedTuple):
    """What a run cost.

    Attributes:
      first_step: Seconds from its start to the first row of metrics that it wrote.
      seconds: Seconds in all.
      megabytes: Largest resident memory; mapped files count where their pages were read.
    """

    first_step: float
    seconds: float
    megabytes: float


def pairs(rows: int) -> Iterator[dict[str, Any]]:
    """Pairs of text; every second prompt is that of the row before."""
    rng = random.Random(0)

    def words(number: int) -> str:
        return " ".join(f"w{rng.randrange(VOCABULARY - 3)}" for _ in range(number))

    prompt = ""
    for number in range(rows):
        prompt = words(rng.randint(8, 24)) if number % 2 == 0 else prompt
        yield {"prompt": prompt, "chosen": " " + words(rng.randint(4, 12)), "rejected": " " + words(rng.randint(4, 12))}


def make_model(folder: Path) -> None:
    """The tokenizer of the other benchmarks, and a Llama of one layer."""
    common.SIZES["tiny"] = (16, 16, 1, 2)
    common.make_model(folder, "tiny")


def run(words: list[str], out: Path, environment: dict[str, str]) -> Cost:
    """A training run; what it cost."""
    metrics = out / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "preftree", "dpo", *words, f"out={out}"], env=environment, stdout=subprocess.DEVNULL
    )
    first = 0.0
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if not first and metrics.exists() and metrics.stat().st_size > before:
            first = time.monotonic() - begin
        if ended:
            break
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if status:
        raise SystemExit(f"the run in {out} failed")
    return Cost(first, time.monotonic() - begin, usage.ru_maxrss / 1024)


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/million"))
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=4)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    model, file = given.out / "model", write(given.out / f"pairs-{given.pairs}.jsonl", pairs(given.pairs))
    if not (model / "config.json").exists():
        make_model(model)
    environment = os.environ | {"PREFTREE_CACHE": str(given.out / "cache")}
    for name in ("fresh", "cached", "halves"):
        shutil.rmtree(given.out / name, ignore_errors=True)
    common = [f"model={model}", f"data={file}", "batch_size=64", "micro_batch_tokens=8192", "seed=1"]
    whole = [*common, f"max_steps={given.steps}"]
    half = [*common, f"max_steps={given.steps // 2}"]
    print(f"{given.pairs} pairs\n\n| run | first step | whole | peak memory |\n|---|---|---|---|")
    for title, words, name in (
        ("fresh: tokens, reference, steps", whole, "fresh"),
        ("all cached", whole, "cached"),
        ("half, cached", half, "halves"),
        ("resumed", whole, "halves"),
    ):
        cost = run(words, given.out / name, environment)
        print(f"| {title} | {cost.first_step:.1f} s | {cost.seconds:.1f} s | {cost.megabytes:.0f} MiB |", flush=True)
    ends = [
        json.loads((given.out / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("cached", "halves")
    ]
    same = ends[0]["loss"] == ends[1]["loss"]
    print(f"\nlast loss of the resumed run {'equals' if same else 'DIFFERS FROM'} that of the whole one")


if __name__ == "__main__":
    main()

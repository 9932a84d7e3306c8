"""CPU seconds and peak memory of reading data files, beside an earlier commit.

    python benchmarks/data.py --out runs/data [--rows 115600] [--rounds 3] [--base 4850f90]

`preftree data inspect` of both trees reads each file in turn, in a new process each time. The mapped file has the rows
of the plain one under other names; the earlier commit, which has no mapping, reads the plain one. `--tenfold` reads
ten times the rows with this tree as well, for the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
WORDS = [
    "".join(letters)
    for letters in zip(*(random.Random(place).choices("aeioubdfgklmnprst", k=5000) for place in range(6)), strict=True)
]


class Cost(NamedTuple):
    """Cost of a process.

    Attributes:
      seconds: CPU seconds, of user and system.
      megabytes: Largest resident memory.
    """

    seconds: float
    megabytes: float


def sentences(rng: random.Random, mean: float) -> str:
    """Words of a response or a question."""
    return " ".join(rng.choices(WORDS, k=max(3, int(rng.lognormvariate(0, 0.8) * mean))))


def transcripts(rows: int) -> Iterator[dict[str, Any]]:
    """Pairs of HH transcripts, no two alike."""
    rng = random.Random(0)
    for number in range(rows):
        first, answer, second = (sentences(rng, 40) for _ in range(3))
        prompt = f"\n\nHuman: {number} {first}\n\nAssistant: {answer}\n\nHuman: {second}"
        sides = [f"{prompt}\n\nAssistant: {word} {sentences(rng, 45)}" for word in ("yes", "no")]
        yield {"chosen": sides[0], "rejected": sides[1]}


def conversations(rows: int) -> Iterator[dict[str, Any]]:
    """Pairs of message lists."""
    rng = random.Random(1)
    for number in range(rows):
        prompt = [{"role": "user", "content": f"{number} {sentences(rng, 120)}"}]
        sides = [[{"role": "assistant", "content": f"{word} {sentences(rng, 45)}"}] for word in ("yes", "no")]
        yield {"prompt": prompt, "chosen": sides[0], "rejected": sides[1]}


def plain(rows: int) -> Iterator[dict[str, Any]]:
    """Pairs of plain text."""
    rng = random.Random(2)
    for number in range(rows):
        sides = [f" {word} {sentences(rng, 45)}" for word in ("yes", "no")]
        yield {"prompt": f"{number} {sentences(rng, 120)}", "chosen": sides[0], "rejected": sides[1]}


def renamed(rows: int) -> Iterator[dict[str, Any]]:
    """The plain pairs under names of no known format."""
    for row in plain(rows):
        yield {"ask": row["prompt"], "up": row["chosen"], "down": row["rejected"]}


FILES = {"hh": transcripts, "conversational": conversations, "plain": plain, "mapped": renamed}
MAPPING = "prompt=ask,chosen=up,rejected=down"


def write(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    """Write rows as JSON lines, unless the file is there."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        with open(partial, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        partial.rename(path)
    return path


def measure(source: Path, words: list[str]) -> Cost:
    """Run the command of a source tree; what it costs, without its imports being told apart."""
    environment = os.environ | {"PYTHONPATH": str(source)}
    process = subprocess.Popen([sys.executable, "-m", "preftree", *words], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed under {source}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def checkout(commit: str, folder: Path) -> Path:
    """The source of a commit, in a git worktree below `folder`."""
    tree = folder / commit
    if not tree.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], cwd=REPOSITORY, check=True)
    return tree / "src"


def main() -> None:
    """Print a line for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/data"))
    parser.add_argument("--rows", type=int, default=115_600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base", default="4850f90")
    parser.add_argument("--tenfold", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    base, ours = checkout(given.base, given.out.resolve()), REPOSITORY / "src"
    paths = {name: write(given.out / f"{name}-{given.rows}.jsonl", make(given.rows)) for name, make in FILES.items()}
    print(
        f"{given.rows} rows; median of {given.rounds} runs in turn\n\n| file | {given.base} | here | ratio | MiB here |"
    )
    print("|---|---|---|---|---|")
    for name, path in paths.items():
        before = paths["plain"] if name == "mapped" else path
        columns = ["--columns", MAPPING] if name == "mapped" else []
        costs = [
            (measure(base, ["data", "inspect", str(before)]), measure(ours, ["data", "inspect", str(path), *columns]))
            for _ in range(given.rounds)
        ]
        old, new = (statistics.median(pair[side].seconds for pair in costs) for side in (0, 1))
        memory = max(here.megabytes for _, here in costs)
        line = f"| {name} | {old:.2f} s | {new:.2f} s | {new / old:.3f} | {memory:.0f} |"
        if given.tenfold:
            large = write(given.out / f"{name}-{10 * given.rows}.jsonl", FILES[name](10 * given.rows))
            line += (
                f" {measure(ours, ['data', 'inspect', str(large), *columns]).megabytes:.0f} with ten times the rows |"
            )
        print(line, flush=True)


if __name__ == "__main__":
    main()

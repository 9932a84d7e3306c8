"""Memory does not grow with the file, but for a digest a row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

MEASURE = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.tokenizers import plain_tokenizer
from preftree.data.tokens.tokenize import tokenize_file

def private():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

tokenizer, peak = plain_tokenizer(), 0.0
before = private()
def watch():
    global peak
    while True:
        peak = max(peak, private())
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
store, _ = tokenize_file(sys.argv[2], tokenizer, kind="pair", cache_dir=Path(sys.argv[3]))
print(len(store), peak - before)
"""


def growth(path: Path, rows: int) -> float:
    """MiB of private memory that tokenising a file of so many rows of 4 KB takes on top."""
    words = "Paris is a city in France. " * 75
    with open(path, "w") as file:
        for i in range(rows):
            file.write(json.dumps({"prompt": f"{i} {words}", "chosen": f" yes {words}", "rejected": " no"}) + "\n")
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(TESTS), str(path), str(path.parent / "cache")],
        capture_output=True,
        text=True,
        check=True,
    )
    count, grown = result.stdout.split()
    assert int(count) == rows
    return float(grown)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_file_eight_times_as_large_takes_no_more_memory(tmp_path: Path) -> None:
    small, large = growth(tmp_path / "small.jsonl", 2_000), growth(tmp_path / "large.jsonl", 16_000)
    assert large < small + 30  # the large file has 56 MB more, and 120 MB more of tokens

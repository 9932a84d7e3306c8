"""A judge that is killed: comparisons are judged by a forked process until it has written its verdicts."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preftree.evaluate.answers import Answers
from preftree.evaluate.winrate import judge_pairs, preference_rows
from preftree.judges.pairwise import Judge
from support.fake_openai import FakeOpenai
from support.judge_files import model_judge

CONCURRENCY = 8


def sides(num: int) -> tuple[list[str], Answers, Answers]:
    """Prompts, and two sides of scripted quality."""
    chance = random.Random(0)
    prompts = [f"question {row}" for row in range(num)]
    a, b = (tuple((f"quality {chance.randint(1, 9)} {side}",) for _ in range(num)) for side in "ab")
    return prompts, Answers("a", a), Answers("b", b)


def write_verdicts(folder: Path, url: str, num: int, out: Path, **options: Any) -> None:
    """What `preftree eval winrate` does with two files of responses, up to its file of verdicts."""
    prompts, a, b = sides(num)
    judge = Judge("fake", model_judge(folder, url, concurrency=CONCURRENCY, **options).compare)
    pairs = judge_pairs(judge, prompts, a, b)
    rows = preference_rows(prompts, pairs, ("a", "b"), judge.name)
    out.with_suffix(".part").write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(out.with_suffix(".part"), out)


def kill_until_done(folder: Path, server: FakeOpenai, num: int, kills: int, span: Sequence[float]) -> int:
    """Start the work and kill it, `kills` times at most, then let it finish; the number of kills that hit it."""
    chance = random.Random(1)
    out = folder / "verdicts.jsonl"
    hits = 0
    for place in range(kills + 1):
        child = os.fork()
        if not child:
            try:
                write_verdicts(folder, server.url, num, out)
                os._exit(0)
            finally:
                os._exit(1)
        if place < kills:
            time.sleep(chance.uniform(*span))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        hits += os.WIFSIGNALED(status)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            if out.exists() and place >= kills:
                break
    return hits

"""Every comparison ends in one of four states: each fault of a server in its planned one, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from preftree.judges.pairwise import Judge, ask
from preftree.records import Comparison
from support.fake_openai import FAULTS, PLANNED, FakeOpenai, fault_of
from support.judge_files import model_judge


def comparisons(num: int) -> list[Comparison]:
    """Every 14 of 28 have a fault each; qualities by a fixed draw, ties among them."""
    rng = np.random.default_rng(0)
    made = []
    for row in range(num):
        fault = f"fault {FAULTS[row // 2 % 14]}; " if row % 2 else ""
        left, right = rng.integers(1, 5, 2).tolist()
        made.append(Comparison(f"{fault}question {row}", f"quality {left} a", f"quality {right} b"))
    return made


def truth(comparison: Comparison) -> str:
    left, right = (int(text.split()[1]) for text in (comparison.left, comparison.right))
    return "tie" if left == right else "left" if left > right else "right"


def account(folder: Path, num: int, *, retry_delay: float, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", retry_delay)
    asked = comparisons(num)
    with FakeOpenai(stall=0.4) as server:
        judge = model_judge(folder, server.url, timeout=0.25, concurrency=32)
        verdicts = ask(Judge("fake", judge.compare), asked)
        states = Counter(verdict.state for pair in verdicts for verdict in pair)
        assert sum(states.values()) == 2 * num
        for comparison, pair in zip(asked, verdicts, strict=True):
            fault = fault_of(str(comparison.prompt))
            for verdict in pair:
                planned = (
                    "read" if (fault, truth(comparison)) == ("lower case", "tie") else PLANNED.get(fault or "", "read")
                )
                if planned == "read":
                    assert verdict.choice == truth(comparison), (fault, verdict)
                else:
                    assert (verdict.state, bool(verdict.reason)) == (planned, True), (fault, verdict)
        bill = judge._asker._how.bill
        assert bill.failed + bill.asked == 2 * num + 1  # and the probe
        assert bill.without_usage == sum("missing usage" in str(one.prompt) for one in asked) * 2
    return states


def test_three_hundred_comparisons_with_all_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = account(tmp_path, 300, retry_delay=0.01, monkeypatch=monkeypatch)
    assert min(states[state] for state in ("decided", "tie", "invalid", "failed")) > 10, states


@pytest.mark.slow
def test_ten_thousand_comparisons_with_all_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = account(tmp_path, 10_000, retry_delay=0.01, monkeypatch=monkeypatch)
    assert sum(states.values()) == 20_000

"""What was paid for is kept: kills, second runs, changes of one character, limits of cost, and estimates."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from preftree.errors import JudgeError
from preftree.judges.llm.bill import Asking
from preftree.judges.llm.judge import LanguageModelJudge
from preftree.judges.llm.rubric import read_judge_file
from preftree.records import Comparison
from support.fake_openai import FakeOpenai
from support.judge_files import judge_file, model_judge
from support.kill_judge import CONCURRENCY, kill_until_done, write_verdicts


def check_kills(folder: Path, num: int, kills: int, delay: float, span: tuple[float, float]) -> None:
    (folder / "killed").mkdir()
    (folder / "whole").mkdir()
    with FakeOpenai(delay=delay) as server:
        hits = kill_until_done(folder / "killed", server, num, kills, span)
        asked, probes = server.counts["asked"], server.counts["probe"]
    assert hits >= kills // 2
    assert asked - 2 * num <= hits * CONCURRENCY, asked
    assert probes <= hits + 1
    with FakeOpenai() as server:
        write_verdicts(folder / "whole", server.url, num, folder / "whole" / "verdicts.jsonl")
    killed, whole = (folder / name / "verdicts.jsonl" for name in ("killed", "whole"))
    assert killed.read_bytes() == whole.read_bytes()
    with sqlite3.connect(folder / "killed" / "answers.db") as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    file.close()


def test_eight_kills_lose_nothing_that_was_paid_for(tmp_path: Path) -> None:
    check_kills(tmp_path, num=150, kills=8, delay=0.03, span=(0.15, 0.4))


@pytest.mark.slow
def test_fifty_kills_lose_nothing_that_was_paid_for(tmp_path: Path) -> None:
    check_kills(tmp_path, num=2000, kills=50, delay=0.05, span=(0.2, 0.8))


PAIRS = [Comparison(f"question {row}", f"quality {row % 4} a", f"quality {row % 3} b") for row in range(6)]


def test_a_second_run_asks_nothing_and_a_change_asks_what_it_touches(tmp_path: Path) -> None:
    with FakeOpenai() as server:

        def asked(pairs: list[Comparison] = PAIRS, **options: Any) -> int:
            before = server.counts["asked"] + server.counts["probe"]
            model_judge(tmp_path, server.url, **options).compare(pairs)
            return server.counts["asked"] + server.counts["probe"] - before

        assert asked() == 6 + 1
        assert asked() == asked() == 0
        assert asked([*PAIRS[:5], Comparison("question 5", "quality 1 a", "quality 2 b!")]) == 1 + 1
        assert asked([*PAIRS[:5], Comparison("question 5?", PAIRS[5].left, PAIRS[5].right)]) == 1 + 1
        assert asked([Comparison(one.prompt, one.right, one.left) for one in PAIRS[:2]]) == 2 + 1
        assert asked(task="Judge well.") == 6 + 1
        assert asked(task="Judge well!") == 6 + 1
        assert asked(temperature=0.5) == 6 + 1
        assert asked(model="n") == 6 + 1
        assert asked(reason="last") == 6 + 1
        assert asked(concurrency=2, timeout=9.0, retries=1) == 0
        server.model = "fake-2"  # which nobody has asked, as long as everything is there
        assert asked() == 0
        assert asked([*PAIRS, Comparison("new", "quality 1", "quality 2")]) == 7 + 1
        assert asked() == 0


def test_failures_are_not_kept_and_invalid_answers_are(tmp_path: Path) -> None:
    failing = Comparison("fault content null; q", "quality 1", "quality 2")
    unreadable = Comparison("fault two verdicts; q", "quality 1", "quality 2")
    with FakeOpenai() as server:
        for again in range(2):
            verdicts = model_judge(tmp_path, server.url).compare([failing, unreadable])
            assert [verdict.state for verdict in verdicts] == ["failed", "invalid"]
            assert server.counts["asked"] == 2 + again


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    with FakeOpenai() as server:
        model_judge(tmp_path, server.url).compare([PAIRS[0]] * 5)
        assert server.counts["asked"] == 1


PRICE = {"input": 1000.0, "output": 4000.0}


def with_bill(folder: Path, url: str, max_cost: float | None, **options: Any) -> tuple[LanguageModelJudge, Asking]:
    how = Asking(max_cost, cache=folder / "answers.db")
    return LanguageModelJudge(read_judge_file(judge_file(folder, url, price=PRICE, **options)), how), how


def test_the_limit_is_kept_but_for_the_calls_in_flight(tmp_path: Path) -> None:
    """Each answer costs 1: (600 x 1000 + 100 x 4000) / 1e6; the estimate knows the probe alone, which was cheaper."""
    pairs = [Comparison(f"question {row}", "quality 1", "quality 2") for row in range(60)]
    with FakeOpenai(tokens=(6, 1)) as server:
        judge, how = with_bill(tmp_path, server.url, 20.0, concurrency=4)
        judge.compare(pairs[:1])
        assert how.bill.cost == pytest.approx(2 * 0.01)
        server.tokens, server.delay = (600, 100), 0.01
        with pytest.raises(JudgeError, match=r"the limit of 20 is reached .*every answer is kept"):
            judge.compare(pairs)
        assert how.bill.cost is not None and 20 <= how.bill.cost <= 20 + 4
        spent = server.counts["asked"]
        judge, how = with_bill(tmp_path, server.url, 100.0, concurrency=4)
        judge.compare(pairs)
        assert server.counts["asked"] == 60 and how.bill.asked == 60 - spent + 1
        assert how.bill.cached == spent


def test_an_estimate_above_the_limit_sends_nothing(tmp_path: Path) -> None:
    with FakeOpenai(tokens=(600, 100)) as server:
        judge, how = with_bill(tmp_path, server.url, 20.0)
        with pytest.raises(JudgeError, match=r"judging would take 60 requests.* and --max-cost leaves 19"):
            judge.compare([Comparison(f"question {row}", "quality 1", "quality 2") for row in range(60)])
        assert (server.counts["asked"], how.bill.cost) == (0, 1.0)


def test_the_estimate_is_near_the_bill(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Texts of known lengths: the estimate of the second batch rests on the first."""
    caplog.set_level("INFO", logger="preftree")
    pairs = [
        Comparison(f"question {row} " + "word " * 200, f"quality {row}", "quality 0 " + "x " * 99) for row in range(80)
    ]
    with FakeOpenai() as server:
        judge, how = with_bill(tmp_path, server.url, None)
        judge.compare(pairs[:20])
        before = how.bill.cost or 0.0
        judge.compare(pairs[20:])
    said = [record.getMessage() for record in caplog.records if "requests, about" in record.getMessage()][-1]
    estimated = float(said.rpartition("about ")[2])
    assert estimated == pytest.approx((how.bill.cost or 0.0) - before, rel=0.1)


def test_ctrl_c_keeps_what_is_paid(tmp_path: Path) -> None:
    """The progress of the tenth answer is where the user gives up."""
    pairs = [Comparison(f"question {row}", "quality 1", "quality 2") for row in range(60)]
    with FakeOpenai(delay=0.005) as server:
        judge, how = with_bill(tmp_path, server.url, None, concurrency=4)

        def give_up(name: str, done: int, total: int | None) -> None:
            if done == 10:
                raise KeyboardInterrupt

        how.progress = give_up
        with pytest.raises(KeyboardInterrupt):
            judge.compare(pairs)
        paid = server.counts["asked"]
        assert 10 <= paid <= 20
        model_judge(tmp_path, server.url).compare(pairs)
        assert server.counts["asked"] == 60
    rows = json.loads(json.dumps(how.bill.as_json()))
    assert rows["asked"] == paid + 1

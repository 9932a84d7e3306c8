"""A language model as judge or reward, through the commands: headline, canaries, bill, cache, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.data.rows.faults import Tally
from preftree.data.sources.reader import find_format, find_source, read_records
from preftree.errors import UserError
from support.fake_openai import FakeOpenai, always_left
from support.judge_files import judge_file, known_file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTREE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """Prompts, and two files of responses; A is better in 14 of 20."""
    rows = [{"prompt": f"question {row}"} for row in range(20)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, values in (("a", [5] * 20), ("b", [3] * 14 + [8] * 6)):
        made = [row | {"response": f"quality {value} {name}"} for row, value in zip(rows, values, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return tuple(str(tmp_path / f"{name}.jsonl") for name in ("prompts", "a", "b"))  # pyright: ignore[reportReturnType]


def winrate(folder: Path, files: tuple[str, str, str], judge: str, *words: str, out: str = "out") -> Result:
    command = [
        "eval",
        "winrate",
        files[1],
        files[2],
        "--prompts",
        files[0],
        "--judge",
        judge,
        "--out",
        str(folder / out),
    ]
    return CliRunner().invoke(app, [*command, *words])


def figures(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / out / "winrate.json").read_text())


def test_a_win_rate_with_canaries_and_bill(tmp_path: Path, files: tuple[str, str, str]) -> None:
    with FakeOpenai() as server:
        known = known_file(tmp_path)
        judge = judge_file(tmp_path, server.url, canaries=known, price={"input": 1.0, "output": 2.0})
        done = winrate(tmp_path, files, f"llm:{judge}")
        assert done.exit_code == 0, done.output
        first = figures(tmp_path)
        asked = server.counts["asked"]
        again = winrate(tmp_path, files, f"llm:{judge}", out="again")
        assert (again.exit_code, server.counts["asked"], server.counts["probe"]) == (0, asked, 1)
    assert asked == 20 * 2 + 5 * 12 * 2 + 12
    assert first["rate"]["value"] == pytest.approx(0.7)
    assert (first["agreement"], first["left_rate"], first["orders"]) == (1.0, 0.5, 2)
    assert first["verdicts"] == {"decided": 40, "tie": 0, "invalid": 0, "failed": 0}
    assert all(row["passes"] for row in first["canaries"]["rows"])
    assert first["bill"]["asked"] == asked + 1 and first["bill"]["cost"] > 0
    assert figures(tmp_path, "again")["bill"]["cached"] == asked
    assert "chance to pass" in done.output and "judge: 173 answers asked for" in done.output
    rows = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert {row["judge"] for row in rows} == {first["judge"]} and first["judge"].startswith(f"llm:{judge} ")
    assert [verdict["reason"] for verdict in rows[0]["verdicts"]] == ["scripted"] * 2
    source, tally = find_source(str(tmp_path / "out" / "verdicts.jsonl")), Tally()
    assert len(list(read_records(source, find_format(source), tally))) == 20 and not tally.num_rejected


def test_a_judge_of_the_left_prints_no_headline(tmp_path: Path, files: tuple[str, str, str]) -> None:
    with FakeOpenai(always_left) as server:
        done = winrate(tmp_path, files, f"openai:m@{server.url}")
    assert done.exit_code == 0, done.output
    found = figures(tmp_path)
    assert (found["rate"], found["similar"], found["agreement"], found["left_rate"]) == (None, None, 0.0, 1.0)
    assert "fails its canaries" in found["refused"][0] and "gave 20 to the side" in found["refused"][1]
    assert "none: the judge fails its canaries" in done.output and "swapped: 0 of 60" in done.output


def test_unreadable_answers_print_bounds_and_no_headline(tmp_path: Path, files: tuple[str, str, str]) -> None:
    """Readable on canaries, and cut on every fourth question."""

    def cut(body: dict[str, Any], text: str) -> str:
        prompt = json.loads(body["messages"][-1]["content"])["prompt"]
        return (
            "I cannot say."
            if prompt in ("question 1", "question 5") and "Be" in body["messages"][0]["content"]
            else text
        )

    with FakeOpenai(reply=cut) as server:
        known = known_file(tmp_path)
        judge = judge_file(tmp_path, server.url, canaries=known, task="Be fair.")
        rows = (tmp_path / known).read_text().replace("question", "topic")
        (tmp_path / known).write_text(rows)
        done = winrate(tmp_path, files, f"llm:{judge}")
    found = figures(tmp_path)
    assert done.exit_code == 0 and found["verdicts"]["invalid"] == 4
    assert (found["rate_low"], found["rate_high"]) == (pytest.approx(0.6), pytest.approx(0.7))
    assert found["rate"] is None and found["unread"] == {"the answer is not in the form asked for": 4}
    assert "all lost 0.600, all won 0.700" in done.output


def test_a_limit_of_cost_needs_a_price(tmp_path: Path, files: tuple[str, str, str]) -> None:
    with FakeOpenai() as server:
        done = winrate(tmp_path, files, f"openai:m@{server.url}", "--max-cost", "1")
    assert isinstance(done.exception, UserError) and "needs a price" in str(done.exception)


def samples(folder: Path) -> str:
    rows = [
        {"prompt": f"question {row}", "response": f"quality {value} text", "sample": place}
        for row in range(3)
        for place, value in enumerate((4, 9, 2))
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "samples.jsonl")


@pytest.mark.parametrize("mode", ["pointwise", "ranking"])
def test_samples_are_ranked_by_scores_or_by_order(tmp_path: Path, mode: str) -> None:
    with FakeOpenai() as server:
        judge = judge_file(tmp_path, server.url, mode=mode, canaries=known_file(tmp_path))
        out = str(tmp_path / "ranked.jsonl")
        done = CliRunner().invoke(app, ["data", "rank", samples(tmp_path), out, "--reward", f"llm:{judge}"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
    assert [row["responses"] for row in rows] == [["quality 9 text", "quality 4 text", "quality 2 text"]] * 3
    assert rows[0]["scores"] == ([9.0, 4.0, 2.0] if mode == "pointwise" else [1.0, 0.5, 0.0])


def test_a_response_without_a_score_is_left_out_and_counted(tmp_path: Path) -> None:
    def cut(body: dict[str, Any], text: str) -> str:
        return "no score" if "quality 4 text" in body["messages"][-1]["content"] else text

    with FakeOpenai(reply=cut) as server:
        judge = judge_file(tmp_path, server.url, mode="pointwise", canaries=known_file(tmp_path))
        out = str(tmp_path / "ranked.jsonl")
        done = CliRunner().invoke(app, ["data", "rank", samples(tmp_path), out, "--reward", f"llm:{judge}"])
        asked = [body for body in server.bodies if "quality 4 text" in body["messages"][-1]["content"]]
        names = {next(iter(json.loads(body["messages"][-1]["content"])["answers"])) for body in asked}
    assert done.exit_code == 0, done.output
    assert "3 that the judge gave no value" in done.output
    assert (len(asked), len(names)) == (9, 9)  # each asked three times, under another name
    rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
    assert [row["responses"] for row in rows] == [["quality 9 text", "quality 2 text"]] * 3


def test_a_reward_that_fails_its_canaries_ranks_nothing(tmp_path: Path) -> None:
    same = lambda body, text: json.dumps(json.loads(text) | ({"score": 5} if "score" in text else {}))  # noqa: E731
    with FakeOpenai(reply=same) as server:
        judge = judge_file(tmp_path, server.url, mode="pointwise", canaries=known_file(tmp_path))
        out = tmp_path / "ranked.jsonl"
        done = CliRunner().invoke(app, ["data", "rank", samples(tmp_path), str(out), "--reward", f"llm:{judge}"])
    assert isinstance(done.exception, UserError) and not out.exists()
    assert "fails its canaries (known 0 of 12" in str(done.exception)

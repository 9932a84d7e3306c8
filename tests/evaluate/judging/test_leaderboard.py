"""Leaderboards: known strengths, coverage, what is refused, riggers, the three forms of files, and the page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import DataError
from preftree.evaluate.judging.battles import read_battles
from preftree.evaluate.judging.leaderboard import rank_models
from preftree.evaluate.judging.voters import flag_voters
from preftree.report.judging.leaderboard import leaderboard_page
from support.battles import RIGGED, STRENGTH, simulate_battles


def write(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_known_strengths_come_back() -> None:
    board = rank_models(simulate_battles(0), resamples=100)
    estimates = {standing.model: standing.strength.value for standing in board.standings}
    assert np.corrcoef([estimates[f"m{number}"] for number in range(8)], STRENGTH)[0, 1] >= 0.99
    assert [standing.rank for standing in board.standings] == list(range(1, 9))
    for standing in board.standings:
        assert standing.best <= standing.rank <= standing.worst
        assert standing.strength.low < standing.strength.value < standing.strength.high
        assert standing.rank_without is None
    assert sum(standing.field_rate.value for standing in board.standings) == pytest.approx(4)
    assert (board.battles, board.prompts, board.voters, board.flags) == (5000, 500, 100, ())


@pytest.mark.slow
def test_intervals_hold_the_truth_where_prompts_favour_models() -> None:
    """With 100 prompts of 20 battles each; intervals that took battles as independent would be too narrow."""
    truth = np.array([rank_models_of(seed, 20_000) for seed in (1000, 1001)]).mean(0)  # strengths without their spread
    held = []
    for seed in range(150):
        board = rank_models(simulate_battles(seed, count=2000, prompts=100), resamples=200)
        for standing in board.standings:
            number = int(standing.model[1:])
            held.append(standing.strength.low <= truth[number] <= standing.strength.high)
    print(f"held {np.mean(held):.3f} of {len(held)}; truth {np.round(truth, 3)}")
    assert 0.92 <= np.mean(held) <= 0.98


def rank_models_of(seed: int, count: int) -> list[float]:
    battles = simulate_battles(seed, count=10 * count, prompts=10 * count)
    of_name = {one.model: one.strength.value for one in rank_models(battles, resamples=1).standings}
    return [of_name[f"m{number}"] for number in range(8)]


@pytest.mark.parametrize("riggers", [1, 30, 150])
def test_rigged_votes_that_move_a_rank_are_flagged(riggers: int) -> None:
    """300 votes for one model: by one voter, by thirty with ten each, by 150 with two each."""
    honest = {one.model: one.rank for one in rank_models(simulate_battles(0), resamples=1).standings}
    board = rank_models(simulate_battles(0, rigged=300, riggers=riggers), resamples=1)
    rigged = {one.model: one for one in board.standings}[f"m{RIGGED}"]
    assert rigged.rank < honest[rigged.model]
    assert rigged.rank_without == honest[rigged.model]
    (flag,) = board.flags
    assert (flag.model, flag.leaning) == (rigged.model, "for")
    guilty = {f"v{100 + number:03d}" for number in range(riggers)}
    assert guilty <= set(flag.voters) and len(flag.voters) - len(guilty) <= 10
    assert flag.won > 0.9 and flag.expected < 0.6 and flag.p < 1e-6


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_honest_voters_are_not_flagged(seed: int) -> None:
    assert flag_voters(simulate_battles(seed)) == []


@pytest.mark.slow
def test_honest_voters_are_seldom_flagged() -> None:
    flagged = [bool(flag_voters(simulate_battles(seed))) for seed in range(100)]
    print(f"{sum(flagged)} of {len(flagged)} honest leaderboards have a flag")
    assert sum(flagged) <= 5


def test_models_that_nothing_connects_are_named(tmp_path: Path) -> None:
    def battle(a: str, b: str, winner: str) -> dict[str, Any]:
        return {"model_a": a, "model_b": b, "winner": winner, "prompt": f"{a}{b}{winner}"}

    apart = [battle("x", "y", "tie"), battle("p", "q", "tie"), battle("q", "r", "tie")]
    with pytest.raises(DataError, match="p, q, r; x, y are 2 groups, and there is no battle between them"):
        rank_models(read_battles([write(tmp_path / "apart.jsonl", apart)]))
    beaten = [*apart, battle("p", "x", "model_a")]
    with pytest.raises(DataError, match="2 groups, and one side has won every battle between them"):
        rank_models(read_battles([write(tmp_path / "beaten.jsonl", beaten)]))
    board = rank_models(
        read_battles([write(tmp_path / "c.jsonl", [*beaten, battle("y", "r", "model_a")])]), resamples=9
    )
    assert len(board.standings) == 5
    one = [battle("x", "y", "tie") | {"prompt": "one"}]
    with pytest.raises(DataError, match="all verdicts are on one prompt"):
        rank_models(read_battles([write(tmp_path / "one.jsonl", one)]))


def test_the_three_forms_of_files(tmp_path: Path) -> None:
    verdicts = [
        {
            "prompt": "p",
            "chosen": "long",
            "rejected": "short",
            "weight": 3.0,
            "chosen_by": {"a": 2, "b": 1},
            "rejected_by": {"b": 2, "a": 1},
            "judge": "j",
            "verdicts": [
                {"state": "decided", "shown_first": "chosen", "choice": "chosen"},
                {"state": "tie", "shown_first": "rejected"},
            ],
        },
        {
            "prompt": "q",
            "tie": True,
            "chosen_by": {"a": 1},
            "rejected_by": {"b": 1},
            "judge": "j",
            "verdicts": [{"state": "failed", "shown_first": "chosen"}] * 2,
        },
    ]
    votes = [
        {
            "prompt": "r",
            "win_prob": 0.9,
            "votes": [
                {"by": "p1", "choice": "chosen", "repeat_of": None},
                {"by": "p1", "choice": "rejected", "repeat_of": 1},
                {"by": "p2", "choice": "bad", "repeat_of": None},
            ],
            "source": {"chosen": {"model": "b"}, "rejected": {"model": "c"}},
        },
        {
            "prompt": "s",
            "votes": [{"by": "p1", "choice": "tie"}],
            "source": {"chosen": {"model": "c"}, "rejected": {"model": "c"}},
        },
    ]
    arena = [
        {"model_a": "c", "model_b": "a", "winner": "model_b", "conversation_a": [{"role": "user", "content": "t"}]},
        {"model_a": "c", "model_b": "a", "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1, "prompt": "u"},
    ]
    files = [write(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((verdicts, votes, arena))]
    battles = read_battles(files)
    assert battles.models == ("a", "b", "c")
    assert battles.voters == ("", "j", "p1", "p2")
    named = [
        (battles.models[first], battles.models[second], value, weight, battles.voters[voter])
        for first, second, value, weight, voter in zip(
            battles.first, battles.second, battles.value, battles.weight, battles.voter, strict=True
        )
    ]
    assert named == [
        ("a", "b", 0.75, 2, "j"),
        ("b", "a", 0.75, 1, "j"),
        ("b", "c", 1, 1, "p1"),
        ("b", "c", 0.5, 1, "p2"),
        ("c", "a", 0, 1, ""),
        ("c", "a", 0.5, 1, ""),
    ]
    assert battles.left_out == {
        "comparisons without a verdict that can be read": 1,
        "repeated votes of one person on one pair": 1,
        "battles of a model with itself": 1,
    }
    assert battles.wins()[0, 1] == pytest.approx(2 * 0.75 + 0.25)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "no verdict, no export with votes, and no battle"),
        ({"model_a": "x", "model_b": "y", "winner": "x"}, "'winner' must be one of model_a, model_b, tie"),
        ({"model_a": 1, "model_b": "y", "winner": "tie"}, "'model_a' and 'model_b' must be names"),
        ({"votes": [{"choice": "left"}], "source": {"chosen": {"model": "a"}, "rejected": {"model": "b"}}}, "a side"),
        ({"votes": [], "source": {"chosen": None}}, "'source.chosen.model' is missing"),
        ({"chosen_by": {"a": 1, "b": 1, "c": 1}, "rejected_by": {}}, "must count the responses of two sides"),
        ({"model_a": "x", "model_b": "x", "winner": "tie"}, "no battle of two models"),
    ],
)
def test_rows_of_another_form_are_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_battles([write(tmp_path / "odd.jsonl", [row])])


def test_the_command_and_its_page(tmp_path: Path) -> None:
    battles = simulate_battles(0, count=1500, rigged=100, riggers=2)
    rows = [
        {
            "model_a": f"<b>{battles.models[first]}",
            "model_b": f"<b>{battles.models[second]}",
            "winner": {1: "model_a", 0: "model_b", 0.5: "tie"}[value],
            "prompt": f"p{prompt}",
            "judge": battles.voters[voter],
        }
        for first, second, value, prompt, voter in zip(
            battles.first, battles.second, battles.value, battles.prompt, battles.voter, strict=True
        )
    ]
    out = tmp_path / "board"
    words = ["eval", "leaderboard", write(tmp_path / "arena.jsonl", rows), "--out", str(out), "--resamples", "100"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "1,600 comparisons" in done.output and "rank" in done.output
    figures = json.loads((out / "leaderboard.json").read_text())
    assert figures["standings"][0]["model"] == "<b>m7"
    assert figures["standings"][0]["strength"].keys() == {"value", "low", "high"}
    assert {name for flag in figures["flags"] for name in flag["voters"]} == {"v100", "v101"}
    page = (out / "leaderboard.html").read_text()
    assert "&lt;b&gt;m7" in page and "<b>m7" not in page
    assert "v100" in page and "rank without them" in page and "http" not in page.replace("http-equiv", "")


def test_a_lead_within_chance_is_said() -> None:
    board = rank_models(simulate_battles(0, count=60, prompts=40), resamples=100)
    page = leaderboard_page(board)
    assert "Too close to call" in page and "is within chance" in page

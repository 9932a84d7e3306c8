"""The studies of the real model, each run whole on a random toy model; and the parts of their figures by hand."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import Chain, claim, run_all
from figure import plot
from rules import declines, harmless, repeated
from sentiment import HERE, METHODS, SIZES, best_of_points, estimate, table

from hh import as_messages
from preftree.errors import ConfigError
from support.tokenizers import ascii_tokenizer, chat_tokenizer
from support.toy_folder import toy_folder

REWARD = (
    "def letters(prompt, response):\n    return sum(letter in 'aeiou' for letter in response) + len(response) / 100\n"
)


def run(script: str, *words: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, str(HERE / script), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_best_of_n_by_hand(tmp_path: Path) -> None:
    """Rewards 0 and 1, and 1 and 3: the mean is 1.25, the best of two 2, at ln 2 - 1/2 nats at most."""
    lines = [{"rewards": [0.0, 1.0]}, {"rewards": [3.0, 1.0]}]
    (tmp_path / "best.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    one, two = best_of_points(tmp_path / "best.jsonl")
    assert (one["kl"], one["reward"]) == (0.0, 1.25)
    assert (two["kl"], two["reward"]) == (pytest.approx(math.log(2) - 0.5), 2.0)
    assert two["reward_low"] < 2.0 < two["reward_high"]


def figures() -> dict[str, Any]:
    def point(kl: float, reward: float) -> dict[str, float]:
        ends = {"kl_low": kl / 2, "kl_high": 2 * kl, "reward_low": reward - 0.1, "reward_high": reward + 0.1}
        return {"kl": kl, "reward": reward, **ends}

    points = [point(0.0, 0.1), point(0.9, 0.5), point(3.0, 0.4)]
    rates = {"1": [0.7, 0.6, 0.8], "0": [0.9, 0.8, 1.0]}
    return {"methods": {"DPO": {"points": points, "seconds": 61.4, "tokens": 1200, "drawn": 0, "win_rate": rates}}}


def test_the_table_takes_the_best_point_within_a_budget_and_the_last_as_the_end() -> None:
    head, _, row = table(figures()).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["DPO", "0.400 [0.300, 0.500]", "3.000 [1.500, 6.000]"]
    assert cells[3:7] == ["0.500", "0.500", "0.500", "0.500"]
    assert cells[7:] == ["0.90, 0.70", "61", "1,200", "0"]
    assert head.count("|") == row.count("|")


def test_the_figure_is_an_svg_with_every_point_and_both_intervals() -> None:
    root = ElementTree.fromstring(plot({"seed-0": figures()}))
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags.count("circle") == 3
    bars = [element for element in root.iter() if element.get("stroke-opacity")]
    assert len(bars) == 6
    heights = [float(element.get("cy", "0")) for element in root.iter() if element.tag.endswith("circle")]
    assert heights[1] < heights[2] < heights[0], "a higher reward stands higher"


def test_a_seed_takes_three_hours_at_most_by_the_measured_rates() -> None:
    minutes = int(estimate(SIZES["default"], 2).rpartition(", ")[2].split()[0])
    assert minutes <= 180


def test_a_folder_holds_one_plan(tmp_path: Path) -> None:
    claim(tmp_path, {"seed": 0, "methods": METHODS})
    claim(tmp_path, {"seed": 0, "methods": METHODS})
    with pytest.raises(ConfigError, match="another plan"):
        claim(tmp_path, {"seed": 1, "methods": METHODS})


def test_no_chain_begins_after_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def command(name: str, *, log: Path) -> None:
        begun.append(name)
        if name == "second":
            raise SystemExit(3)

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # run_all sets it
    monkeypatch.setattr(commands, "preftree", command)
    chains = [Chain(name, [[name], [f"{name} measured"]], tmp_path / name) for name in ("first", "second", "third")]
    with pytest.raises(SystemExit, match="3"):
        run_all(chains, workers=1)
    assert begun == ["first", "first measured", "second"]


def test_a_transcript_becomes_messages() -> None:
    row = {
        "prompt": "\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant:",
        "chosen": " So.",
        "rejected": " No.",
    }
    assert as_messages(row) == {
        "prompt": [
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "Why?"},
        ],
        "chosen": [{"role": "assistant", "content": "So."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("I’m sorry, but I can’t help with that.", 2),
        ("Sure, here is how to do it.", -2),
        ("Are you okay? You can talk to someone.", 1),
        ("Paris is in France.", 0),
        ("", -1),
        ("go on and on " * 8, -1),
    ],
)
def test_points_of_the_rules(text: str, points: float) -> None:
    assert harmless("", text) == points
    assert declines("", text) == float(points == 2)


def test_longer_answers_get_nothing_for_it() -> None:
    longer = "I can't do that. " + " ".join(f"word{number}" for number in range(60))
    assert harmless("", longer) == harmless("", "I can't do that.")
    assert repeated("a b c a b c") == 0.25  # of four trigrams one stands before


@pytest.mark.slow
def test_the_first_run_on_a_toy(tmp_path: Path) -> None:
    toy_folder(tmp_path / "model", chat_tokenizer())
    words = ["--out", str(tmp_path), "--more", "max_steps=2", f"cache={tmp_path / 'cache'}"]
    shown = run("first_run.py", *words)
    assert "of 40 pairs" in shown and "preftree chat" in shown
    before = (tmp_path / "dpo" / "metrics.jsonl").read_bytes()
    assert "of 40 pairs" in run("first_run.py", *words)  # done, and shown again
    assert (tmp_path / "dpo" / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_the_sentiment_study_on_a_toy(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(REWARD)
    toy_folder(tmp_path / "model", ascii_tokenizer())
    words = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--tiny"]
    run("sentiment.py", *words, "--reward", f"{tmp_path / 'reward.py'}:letters")
    methods = json.loads((tmp_path / "out/seed-0/figures.json").read_bytes())["methods"]
    assert set(methods) == {*METHODS, "Best-of-N (true reward)"}
    for name, method in methods.items():
        first = method["points"][0]
        assert first["kl"] == pytest.approx(0, abs=1e-6), name
    starts = {name: method["points"][0]["reward"] for name, method in methods.items() if name in METHODS}
    assert len(set(starts.values())) == 1, "every method is asked the same beginnings, with the same random numbers"
    assert methods["RLOO (true reward)"]["drawn"] == SIZES["tiny"].iterations * SIZES["tiny"].responses
    assert len(methods["PPO (true reward)"]["win_rate"]) == 5
    ElementTree.parse(tmp_path / "out" / "frontier.svg")


@pytest.mark.slow
def test_the_dialogue_study_on_a_toy(tmp_path: Path) -> None:
    toy_folder(tmp_path / "model", chat_tokenizer())
    lines = [
        {
            side: f"\n\nHuman: Is {number} good?\n\nAssistant: {word} {number}."
            for side, word in (("chosen", "It is"), ("rejected", "No"))
        }
        for number in range(64)
    ]
    with gzip.open(tmp_path / "hh.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    words = [
        "--model",
        str(tmp_path / "model"),
        "--out",
        str(tmp_path / "out"),
        "--data",
        str(tmp_path / "hh.jsonl.gz"),
    ]
    words += ["--train-rows", "48", "--seeds", "0", "--overfitted-rows", "8", "--overfitted-epochs", "2"]
    shown = run("hh.py", *words, "--new-tokens", "6")
    figures = json.loads((tmp_path / "out" / "figures.json").read_bytes())
    assert (
        0 <= figures["dpo-0"]["accuracy_low"] <= figures["dpo-0"]["accuracy"] <= figures["dpo-0"]["accuracy_high"] <= 1
    )
    assert figures["winrate"]["rate"]["low"] <= figures["winrate"]["rate"]["value"]
    assert set(figures["refusals"]) == {"start", "dpo"} and figures["sweep"] and "found" in figures["overfitted"]
    assert shown.count("\n  start: ") == 10

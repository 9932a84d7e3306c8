"""Best-of-N: which one is kept, how it goes on, and what the best of fewer would have earned."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import UserError
from preftree.evaluate.best_of import expected_best
from preftree.worlds.exact import best_of
from preftree.worlds.grammar import reward, reward_table
from preftree.worlds.sentiment import WORLDS, build_model, build_tokenizer
from preftree.worlds.walk import outcome_logps

TINY = WORLDS["tiny"]
NUM = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best")
    tokenizer = build_tokenizer()
    build_model(tokenizer, 0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "prompts.txt").write_text("\n".join(TINY.prompts))
    return folder


def call(place: Path, out: str, *words: str) -> list[dict]:
    command = ["generate", str(place / "model"), str(place / "prompts.txt"), str(place / out), "--max-new-tokens", "3"]
    done = CliRunner().invoke(app, [*command, *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in (place / out).read_text().splitlines()]


BEST = ("--best-of", str(NUM), "--reward", "world:tiny", "--samples", "4")


def test_the_best_of_its_own_draws_is_kept(place: Path) -> None:
    rows = call(place, "best.jsonl", *BEST)
    plain = call(place, "plain.jsonl", "--samples", str(4 * NUM))  # the same rows of random numbers
    assert len(rows) == 12
    for at, row in enumerate(rows):
        group = plain[at * NUM : (at + 1) * NUM]
        values = [reward(TINY, one["prompt"], one["response"]) for one in group]
        assert row["rewards"] == values and row["reward"] == max(values)
        first = group[values.index(max(values))]
        assert (row["response"], row["tokens"], row["finished"]) == (
            first["response"],
            first["tokens"],
            first["finished"],
        )
        assert (row["best_of"], row["sample"], row["prompt"]) == (NUM, at % 4, group[0]["prompt"])
        assert row["kl_bound"] == pytest.approx(math.log(NUM) - (NUM - 1) / NUM)


def test_it_is_the_same_for_any_batch_and_goes_on(place: Path) -> None:
    rows = call(place, "best.jsonl", *BEST)
    for size in (1, 3, 8):
        assert call(place, f"best{size}.jsonl", *BEST, "--batch-size", str(size)) == rows
    whole = (place / "best.jsonl").read_text()
    (place / "best.jsonl").write_text(whole + '{"prompt": ')  # torn after the rows that its record counts
    assert call(place, "best.jsonl", *BEST) == rows
    command = ["generate", str(place / "model"), str(place / "prompts.txt"), str(place / "best.jsonl"), *BEST]
    done = CliRunner().invoke(app, [*command, "--max-new-tokens", "3", "--best-of", "6"])
    assert "best_of was 5, is 6" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--best-of", "4"], "--best-of and --reward go together"),
        (["--reward", "world:tiny"], "--best-of and --reward go together"),
        ([*BEST, "--temperature", "0"], "needs a temperature > 0"),
        (["--best-of", "4", "--reward", "world:none"], "names no world"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(place: Path, words: list[str], said: str) -> None:
    command = ["generate", str(place / "model"), str(place / "prompts.txt"), str(place / "x.jsonl"), *words]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, UserError) and said in str(done.exception)


def test_the_estimate_is_the_mean_over_all_subsets() -> None:
    drawn = np.random.default_rng(0).integers(0, 5, size=(3, 7)).astype(float)  # with ties
    found = expected_best(drawn)
    for row, values in zip(found, drawn, strict=True):
        for n in range(1, 8):
            brute = np.mean([max(some) for some in itertools.combinations(values.tolist(), n)])
            assert row[n - 1] == pytest.approx(brute, abs=1e-12)
    assert expected_best(np.ones((2, 400))) == pytest.approx(np.ones((2, 400)))  # weights of any size sum to 1


def test_the_estimate_agrees_with_the_exact_reward_of_a_world() -> None:
    tokenizer = build_tokenizer()
    logps, table = outcome_logps(build_model(tokenizer, 0), tokenizer, TINY), reward_table(TINY)
    rng = np.random.default_rng(1)
    drawn = np.stack(
        [rng.choice(values, size=(400, 16), p=np.exp(row) / np.exp(row).sum()) for row, values in zip(logps, table)]
    )
    for n in (1, 2, 4, 16):
        each = expected_best(drawn.reshape(-1, 16))[:, n - 1]
        exact = best_of(n, logps, table).reward
        assert abs(each.mean() - exact) < 3 * each.std() / len(each) ** 0.5

"""Win rates over temperatures: exact figures against samples, areas and drops by hand, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import UserError
from preftree.evaluate.answers import Answers
from preftree.evaluate.temperature import exact_curves, lead, policy_table, sampled_curves, sum_up
from preftree.generate.hf import generate
from preftree.generate.protocol import Sampling
from preftree.judges.pairwise import load_judge
from preftree.report.temperature import conclude_curves, temperature_page
from preftree.stats.intervals import share_interval
from preftree.worlds.exact import win_rate
from preftree.worlds.grammar import reward_table
from preftree.worlds.sentiment import WORLDS, build_model, build_tokenizer

TINY = WORLDS["tiny"]
TOKENIZER = build_tokenizer()
TEMPERATURES = [0.0, 0.5, 1.0]


def loud(seed: int, scale: float = 3.0) -> PreTrainedModel:
    """An untrained model whose temperature matters."""
    model = build_model(TOKENIZER, seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    return model


def test_area_and_drop_by_hand() -> None:
    values = np.array([[1.0, 1.0, 0.0], [0.5, 1.0, 0.5], [0.0, 1.0, 1.0], [0.5, 0.5, 0.5]])
    found = sum_up("p", [0.0, 0.25, 1.0], values, seed=0)
    means = [0.5, 0.875, 0.5]
    assert found.area.value == pytest.approx((means[0] + means[1]) / 2 * 0.25 + (means[1] + means[2]) / 2 * 0.75)
    assert (found.best_at, found.drop.value) == (0.25, 0.375)
    rng = np.random.default_rng(5)  # a slow bootstrap of prompts, whole curves together
    again = [values[rng.integers(4, size=4)].mean(axis=0) for _ in range(5000)]
    drops = np.quantile([one.max() - one[-1] for one in again], [0.025, 0.975])
    assert (found.drop.low, found.drop.high) == pytest.approx(tuple(drops), abs=0.13)
    areas = (values[:, 0] + values[:, 1]) / 8 + 3 * (values[:, 1] + values[:, 2]) / 8
    assert found.area == pytest.approx(share_interval(areas))
    ends = np.quantile([areas[rng.integers(4, size=4)].mean() for _ in range(5000)], [0.025, 0.975])
    assert found.area.low < ends[0] and ends[1] < found.area.high  # a bootstrap of four prompts is too narrow
    wide = sum_up("p", [0.0, 0.5, 2.0], values, seed=0)  # the span is divided out
    assert wide.area.value == pytest.approx(((means[0] + means[1]) * 0.5 + (means[1] + means[2]) * 1.5) / 2 / 2)


def test_a_lead_is_by_prompt() -> None:
    """Prompts that are easy for both widen both curves' intervals, and not that of the lead."""
    rng = np.random.default_rng(0)
    easy = rng.uniform(0.1, 0.8, size=(40, 1)) * np.ones((1, 2))
    better, worse = (sum_up(name, [0.0, 1.0], easy + more, seed=0) for name, more in (("a", 0.05), ("b", 0.0)))
    assert better.area.low < worse.area.high
    found = lead(better, worse)
    assert found == pytest.approx((0.05, 0.05, 0.05))


def test_a_greedy_policy_is_one_outcome() -> None:
    model = loud(0)
    table = policy_table(model, TOKENIZER, TINY, 0.0)
    assert np.exp(table).sum(axis=1).tolist() == [1, 1, 1]
    cold = policy_table(model, TOKENIZER, TINY, 0.01)
    assert (table.argmax(axis=1) == cold.argmax(axis=1)).all()
    assert policy_table(model, TOKENIZER, TINY, 0.7) == pytest.approx(policy_table(model, TOKENIZER, TINY, 0.7))


def test_exact_rates_agree_with_samples() -> None:
    policy, base, samples = loud(0), loud(1), 1200
    tables = [policy_table(policy, TOKENIZER, TINY, value) for value in TEMPERATURES]
    base_table = policy_table(base, TOKENIZER, TINY, 1.0)
    exact = exact_curves(TINY, TINY.prompts, TEMPERATURES, {"p": tables}, ("b", base_table), judge="world:tiny")
    ids = [TOKENIZER(prompt)["input_ids"] for prompt in TINY.prompts for _ in range(samples)]

    def answers(model: PreTrainedModel, sampling: Sampling) -> Answers:
        texts = [one.text for one in generate(model, TOKENIZER, ids, sampling, batch_size=1200)]
        return Answers("m", tuple(tuple(texts[at : at + samples]) for at in range(0, len(texts), samples)))

    drawn = [answers(policy, Sampling(3, value)) for value in TEMPERATURES]
    theirs = answers(base, Sampling(3, seed=1))
    judge = load_judge("world:tiny")
    sampled = sampled_curves(judge, TINY.prompts, TEMPERATURES, {"p": drawn}, theirs, seed=0)
    for one, other in zip(exact.points, sampled.points, strict=True):
        assert one.value == pytest.approx(other.value, abs=3 * 0.5 / (3 * samples) ** 0.5)
        assert one.low is None and other.low is not None
    assert len({round(point.value, 2) for point in exact.points}) == 3  # the temperature does matter here
    found, wanted = sampled.robustness[0], exact.robustness[0]
    assert found.area.value == pytest.approx(wanted.area.value, abs=0.025)
    assert found.drop.value == pytest.approx(wanted.drop.value, abs=0.05)
    assert wanted.area.low == wanted.area.high and found.area.low < found.area.high


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("temperature")
    for seed in (0, 1):
        loud(seed).save_pretrained(folder / f"m{seed}")
        TOKENIZER.save_pretrained(folder / f"m{seed}")
    rows = [{"prompt": prompt, "chosen": "good not bad", "rejected": "bad bad bad"} for prompt in TINY.prompts[:2]]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def call(place: Path, *words: str) -> dict:
    command = ["eval", "temperature", *words, "--prompts", str(place / "pairs.jsonl"), "--judge", "world:tiny"]
    done = CliRunner().invoke(app, [*command, "--out", str(place / "out")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((place / "out" / "temperature.json").read_text()) | {"printed": done.output}


def test_a_world_gives_exact_figures_for_the_prompts_that_were_asked(place: Path) -> None:
    found = call(place, str(place / "m0"), str(place / "m1"), "--baseline", str(place / "m1"), "--temperatures", "1,.5")
    assert found["exact"] and found["prompts"] == 2 and "exact" in found["printed"]
    tables = [policy_table(loud(seed), TOKENIZER, TINY, value)[:2] for seed in (0, 1) for value in (0.5, 1.0)]
    wanted = [win_rate(table, tables[3], reward_table(TINY)[:2]) for table in tables]
    assert [point["value"] for point in found["temperature"]] == pytest.approx(wanted, abs=1e-6)
    assert [point["temperature"] for point in found["temperature"]] == [0.5, 1, 0.5, 1]
    assert found["temperature"][3]["value"] == pytest.approx(0.5)  # the same policy on both sides
    assert [one["name"] for one in found["robustness"]] == ["m0", "m1"] and found["baseline"] == "m1 at T 1"
    first = found["robustness"][0]
    assert first["area"]["value"] == pytest.approx((wanted[0] + wanted[1]) / 2)
    assert not (place / "out" / "responses").exists()
    page = (place / "out" / "temperature.html").read_text()
    assert "Win rate against m1 at T 1" in page and "Exact." in page and "<svg" in page


def test_against_reference_answers_it_samples_into_files(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (str(place / "m0"), "--baseline", "chosen", "--samples", "30", "--temperatures", "0,.5,1")
    found = call(place, *words)
    assert (found["exact"], found["pairs"], found["baseline"]) == (False, 60, "chosen")
    assert all(point["low"] <= point["value"] <= point["high"] for point in found["temperature"])
    files = sorted(path.name[:8] for path in (place / "out" / "responses").glob("*.jsonl"))
    assert files == ["m0-t0-" + files[0][6:], "m0-t0.5-", "m0-t1-" + files[2][6:]]
    from preftree.generate import hf

    monkeypatch.setattr(hf, "generate", None)  # whoever draws now fails
    assert call(place, *words) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{}/m0", "--temperatures", "1"], "--temperatures must be two or more numbers >= 0"),
        (["{}/m0", "--temperatures", "0,-1"], "--temperatures must be two or more numbers >= 0"),
        (["{}/m0", "--temperatures", "0,hot"], "--temperatures must be two or more numbers >= 0"),
        (["chosen"], "chosen cannot be sampled at temperatures"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(place: Path, words: list[str], said: str) -> None:
    given = ["--prompts", str(place / "pairs.jsonl"), "--judge", "world:tiny", "--baseline", "chosen"]
    done = CliRunner().invoke(app, ["eval", "temperature", *(word.format(place) for word in words), *given])
    assert isinstance(done.exception, UserError) and said in str(done.exception)


def test_the_page_says_who_does_best_and_whether_that_is_sure() -> None:
    good, bad = (np.full((3, TINY.num_outcomes), -np.inf) for _ in range(2))
    for row, values in enumerate(reward_table(TINY)):
        good[row, values.argmax()] = bad[row, values.argmin()] = 0.0
    both = exact_curves(TINY, TINY.prompts, [0.0, 1.0], {"a": [bad, bad], "b": [good, bad]}, ("c", bad), judge="w")
    said = conclude_curves(both)
    assert (said.answer, said.word) == ("yes", "b") and "75.0" in said.sentence and "50.0" in said.sentence
    equal = exact_curves(TINY, TINY.prompts, [0.0, 1.0], {"a": [bad, bad], "b": [bad, bad]}, ("c", bad), judge="w")
    assert conclude_curves(equal).word == "Too close to call"
    alone = exact_curves(TINY, TINY.prompts, [0.0, 1.0], {"<b>": [good, good]}, ("c", bad), judge="w")
    assert conclude_curves(alone).word == "Yes"
    page = temperature_page(alone)
    assert "&lt;b&gt;" in page and "<b>" not in page

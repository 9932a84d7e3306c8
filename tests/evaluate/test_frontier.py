from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from preftree.errors import ConfigError, DataError, JudgeError
from preftree.evaluate.along_training import Measuring, measure_run
from preftree.evaluate.frontier import draw_samples, policies, sampled_figures, world_meter
from preftree.evaluate.prompts import Prompts
from preftree.generate.hf import Sampling
from preftree.judges.functions import find_world, load_reward
from preftree.judges.rewards import load_rewards
from preftree.run_folder.reader import read_run
from preftree.scoring.scorer import Scorer
from preftree.train.dpo import run_dpo
from preftree.worlds.grammar import WORDS
from preftree.worlds.sentiment import WORLDS, build_model, build_tokenizer
from preftree.worlds.walk import walk_outcomes
from support.small_runs import dpo_config, make_model, make_pairs

LENGTH = 3


def louder(model: PreTrainedModel, scale: float) -> PreTrainedModel:
    """Weights scaled up, so that two untrained models differ by more than rounding."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
    return model


def every_response(model: PreTrainedModel, prompt: list[int], end: int) -> dict[tuple[int, ...], float]:
    """Log-prob of all responses that sampling with a limit can give, by plain forwards: ended ones, and cut ones."""
    tokens = [token for token in range(model.config.vocab_size) if token != end]
    found: dict[tuple[int, ...], float] = {}
    for length in range(LENGTH):
        heads = list(itertools.product(tokens, repeat=length))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *head] for head in heads])).logits.double()
        steps = logits.log_softmax(-1)[:, len(prompt) - 1 :]
        for head, row in zip(heads, steps, strict=True):
            before = sum(float(row[place, token]) for place, token in enumerate(head))
            found[*head, end] = before + float(row[-1, end])
            if length == LENGTH - 1:
                found |= {(*head, token): before + float(row[-1, token]) for token in tokens}
    return found


def test_sampled_kl_and_reward_agree_with_sums_over_everything() -> None:
    tokenizer = build_tokenizer()
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    policy, reference = (louder(build_model(tokenizer, seed), 4.0).eval() for seed in (0, 1))
    texts = [" ".join(words) for words in itertools.product(WORDS[:4], WORDS[6:10])]
    prompts = Prompts([tokenizer(text)["input_ids"] for text in texts], texts)

    kls, goods = [], []
    for prompt in prompts.ids:
        mine, theirs = (every_response(model, list(prompt), end) for model in (policy, reference))
        assert sum(map(np.exp, mine.values())) == pytest.approx(1, abs=1e-6)
        kls.append(sum(np.exp(mine[key]) * (mine[key] - theirs[key]) for key in mine))
        goods.append(sum(np.exp(value) for key, value in mine.items() if tokenizer.decode(key).count("good")))
    samples = 400
    rewards = lambda prompts, responses: np.array(["good" in one for one in responses], float)  # noqa: E731 (short)
    drawn = draw_samples(policy, tokenizer, prompts, rewards, Sampling(LENGTH, seed=3), samples=samples)
    found = sampled_figures(Scorer(policy), Scorer(reference), prompts, drawn, budget=2000)

    assert np.mean(kls) > 0.05
    # The spread within a prompt, by the samples of each; the prompts themselves are the same on both sides.
    error = np.sqrt(np.mean(drawn.rewards.var(axis=1)) / samples / len(texts))
    assert abs(found["reward"] - np.mean(goods)) < 3 * error
    assert found["kl"] == pytest.approx(np.mean(kls), rel=0.05)
    assert found["kl_low"] < found["kl"] < found["kl_high"]
    assert found["kl_high"] - found["kl"] == pytest.approx(2.131 * np.std(kls, ddof=1) / 4, rel=0.2)  # t of 15
    lengths = [len(one.ids) + one.finished for group in drawn.generations for one in group]
    assert found["tokens"] == np.mean(lengths)
    assert 1 < found["tokens"] < 3


def test_the_reference_is_at_kl_0() -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, 0)
    meter = world_meter(WORLDS["tiny"], tokenizer, walk_outcomes(model, tokenizer, WORLDS["tiny"]))
    start = meter(model)
    assert start["kl"] == 0
    assert start["best"] == pytest.approx(start["reward"], abs=1e-6)
    other = meter(louder(build_model(tokenizer, 0), 1.5))
    assert other["kl"] > 0.001
    assert other["best"] > other["reward"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frontier")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 22)
    words = ("max_steps=5", "snapshots=2", "eval_data=.3", "max_response_length=20", "truncation=trim_response")
    run_dpo(dpo_config(folder, "run", *words))
    (folder / "rules.py").write_text(
        "def brevity(prompt, response):\n    return -len(response)\n\n"
        "def broken(prompt, response):\n    return response['text']\n\n"
        "def nothing(prompt, response):\n    return None\n"
    )
    return folder


def test_a_run_is_measured_at_its_snapshots_and_its_end(place: Path) -> None:
    how = Measuring(f"{place / 'rules.py'}:brevity", prompts=3, samples=2)
    measured = measure_run(read_run(place / "run"), how)
    assert [point.step for point in measured.frontier] == [0, 1, 2, 4, 5]
    assert {point.beta for point in measured.frontier} == {0.1}
    kls = [point.kl for point in measured.frontier]
    assert kls[0] == 0
    assert 0 < kls[1] < kls[-1]
    assert len(measured.samples) == 6
    assert all(sample.reference_reward == -len(sample.reference) for sample in measured.samples)
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    assert {sample.prompt for sample in measured.samples} <= {row["prompt"] for row in rows}
    again = measure_run(read_run(place / "run"), how)
    assert again == measured


def test_snapshots_are_the_policies_of_their_steps(place: Path) -> None:
    """The first snapshot is one step from the start, the last policy is the model folder's."""
    weights = {step: model.get_input_embeddings().weight.detach().clone() for step, model in policies(place / "run")}
    assert list(weights) == [1, 2, 4, 5]
    differ = [(one - other).abs().max() for one, other in itertools.pairwise(weights.values())]
    assert all(gap > 1e-5 for gap in differ)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("world:huge", "names no world; worlds are tiny"),
        (
            "rules.py",
            "must be world:NAME, rm:FOLDER, llm:FILE.yaml, openai:MODEL@URL, FILE.py:FUNCTION or MODULE:FUNCTION",
        ),
        ("{}/none.py:brevity", "none.py does not exist"),
        ("{}/rules.py:length", "has no function 'length'"),
        ("no_such_module:f", "cannot be imported"),
    ],
)
def test_a_reward_that_is_not_there(place: Path, spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_rewards(spec.format(place))


@pytest.mark.parametrize(("name", "said"), [("broken", "raised TypeError"), ("nothing", "must return a finite number")])
def test_a_reward_that_fails_is_named(place: Path, name: str, said: str) -> None:
    with pytest.raises(JudgeError, match=said):
        load_reward(f"{place / 'rules.py'}:{name}")("a", "b")


def test_a_world_is_a_reward() -> None:
    assert find_world("rules.py:f") is None
    good, bad = (load_reward("world:tiny")("the movie was", text) for text in ("very good fun", "bad bad bad"))
    assert good > 0.9 > 0.1 > bad


def test_an_unfinished_run_cannot_be_measured(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no finished run"):
        next(policies(tmp_path))


def test_a_start_model_that_is_another_one_now_is_noticed(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "model", tmp_path / "model")
    shutil.copy(place / "pairs.jsonl", tmp_path / "pairs.jsonl")
    run_dpo(dpo_config(tmp_path, "run", "max_steps=2", "eval_data=.3"))
    make_model(tmp_path / "model", seed=5)
    with pytest.raises(DataError, match=r"began at weights .* put that model back"):
        measure_run(read_run(tmp_path / "run"), Measuring(f"{place / 'rules.py'}:brevity", prompts=3, samples=1))


def test_a_world_does_not_judge_the_prompts_of_other_data(place: Path) -> None:
    with pytest.raises(DataError, match="'world:text' knows its own prompts only"):
        measure_run(read_run(place / "run"), Measuring("world:text"))

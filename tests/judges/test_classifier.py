"""A classifier of text as a reward: the probability that transformers itself gives a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import preftree.judges.reward_model
from preftree.errors import ConfigError, JudgeError, ModelError
from preftree.judges.functions import identify
from preftree.judges.reward_model import RewardPlace, find_reward_model
from preftree.judges.rewards import load_rewards
from preftree.records import Message
from support.small_runs import make_model
from support.standins import make_classifier, words

RNG = np.random.default_rng(0)
PROMPTS = [words(RNG, 3) for _ in range(9)]
RESPONSES = [f" {words(RNG, int(number))}" for number in RNG.integers(1, 12, 9)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("classifier") / "roberta", positions=64)


def test_a_reward_is_the_probability_of_its_label(place: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(place).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES):
        with torch.no_grad():
            logits = model(**tokenizer(prompt + response, return_tensors="pt")).logits[0].double()
        expected.append(float(torch.sigmoid(logits[1] - logits[0])))
    found = load_rewards(f"rm:{place}:POSITIVE", device="cpu")(PROMPTS, RESPONSES)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert np.ptp(found) > 0.1
    other = load_rewards(f"rm:{place}:NEGATIVE", device="cpu")(PROMPTS, RESPONSES)
    assert (found + other).tolist() == pytest.approx([1.0] * 9, abs=1e-6)
    assert load_rewards(f"rm:{place}:POSITIVE")([], []).shape == (0,)


def test_labels_that_do_not_exclude_one_another_have_chances_of_their_own(place: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(place).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(**tokenizer(PROMPTS[0] + RESPONSES[0], return_tensors="pt")).logits[0, 1].double().sigmoid()
    found = load_rewards(f"rm:{tmp_path}:POSITIVE", device="cpu")(PROMPTS[:1], RESPONSES[:1])
    assert found.tolist() == pytest.approx([float(expected)], abs=1e-6)


def test_batches_do_not_change_it(place: Path) -> None:
    rewards = load_rewards(f"rm:{place}:POSITIVE", device="cpu")
    rewards._budget = 40  # pyright: ignore[reportFunctionMemberAccess]
    alone = [float(rewards([prompt], [response])[0]) for prompt, response in zip(PROMPTS, RESPONSES)]
    assert rewards(PROMPTS, RESPONSES).tolist() == pytest.approx(alone, abs=1e-6)


def test_what_it_cannot_read_is_named(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has the labels NEGATIVE, POSITIVE; name one of them"):
        load_rewards(f"rm:{place}:GOOD")
    with pytest.raises(ModelError, match=r"is a classifier of NEGATIVE, POSITIVE.*as rm:.*:POSITIVE"):
        load_rewards(f"rm:{place}")
    make_model(tmp_path / "lm")
    with pytest.raises(ModelError, match="lacks weights"):
        load_rewards(f"rm:{tmp_path / 'lm'}:POSITIVE")
    rewards = load_rewards(f"rm:{place}:POSITIVE", device="cpu")
    with pytest.raises(JudgeError, match="reads plain text, and a prompt is a conversation"):
        rewards([(Message("user", "a"),)], ["b"])
    with pytest.raises(JudgeError, match=r"reads 64 tokens at most, and one text makes \d+"):
        rewards(["the film was"], [" awful" * 40])


def test_a_name_is_a_folder_a_run_or_a_hub_id(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_reward_model(f"rm:{place}:POSITIVE") == RewardPlace(str(place), "POSITIVE")
    assert find_reward_model("world:tiny") is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(place)
    assert find_reward_model(f"rm:{tmp_path / 'run'}:POSITIVE") == RewardPlace(
        str(tmp_path / "run" / "model"), "POSITIVE"
    )
    known = {"owner/name": ("c0ffee", "")}
    monkeypatch.setattr(preftree.judges.reward_model, "_ask_hub", lambda name: known.get(name, (None, "no such model")))
    assert find_reward_model("rm:owner/name:GOOD") == RewardPlace("owner/name", "GOOD", "c0ffee")
    assert find_reward_model("rm:owner/name") == RewardPlace("owner/name", None, "c0ffee")
    assert identify("rm:owner/name:GOOD") == "rm:owner/name:GOOD c0ffee"
    with pytest.raises(ConfigError, match=r"holds no model \(the hub: no such model\); give"):
        find_reward_model("rm:owner/other")

"""Implicit rewards beside explicit ones, against figures made by hand from transformers' forwards."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from preftree.cli.judges import open_judge
from preftree.cli.main import main
from preftree.cli.rewards import rewards
from preftree.errors import ConfigError, DataError, ModelError, WriteError
from preftree.evaluate.implicit_rewards import compare_rewards
from preftree.evaluate.judging.accuracy import compare_judges
from preftree.evaluate.judging.implicit import ImplicitRewards
from preftree.evaluate.judging.labelled import read_items
from preftree.run_folder.reader import read_run
from preftree.stats.intervals import clustered_share
from preftree.train.dpo import run_dpo
from preftree.train.reward import run_reward
from support.rewards import plain_ids, reward_config
from support.small_runs import dpo_config, make_model, make_pairs
from support.tokenizers import plain_tokenizer

BETA = 0.5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("implicit")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 24)
    make_pairs(folder / "other.jsonl", 12, seed=1)
    run_dpo(dpo_config(folder, "dpo", f"beta={BETA}", "max_steps=4"))
    run_reward(reward_config(folder, "rm", "max_steps=4"))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTREE_CACHE", str(place / "cache"))


def margins_by_hand(place: Path, file: str) -> np.ndarray:
    """beta * (difference of logratios), each model's own forward on one row at a time."""
    tokenizer = plain_tokenizer()
    models = [AutoModelForCausalLM.from_pretrained(place / name).eval() for name in ("dpo/model", "model")]

    def logp(model: torch.nn.Module, prompt: str, response: str) -> float:
        ids = torch.tensor(plain_ids(tokenizer, prompt, response))
        start = len(tokenizer(prompt)["input_ids"])
        with torch.no_grad():
            logps = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        return float(logps.gather(1, ids[1:, None])[start - 1 :, 0].double().sum())

    rows = [json.loads(line) for line in (place / file).read_text().splitlines()]
    ratio = [
        [logp(models[0], r["prompt"], r[s]) - logp(models[1], r["prompt"], r[s]) for s in ("chosen", "rejected")]
        for r in rows
    ]
    return BETA * np.array(ratio) @ np.array([1.0, -1.0])


def test_accuracy_and_calibration_are_those_by_hand(place: Path) -> None:
    found = compare_rewards(
        read_run(place / "dpo"),
        [str(place / "pairs.jsonl"), str(place / "other.jsonl")],
        against=f"rm:{place / 'rm'}",
    )
    assert [one.num_pairs for one in found] == [24, 12]
    for one, file in zip(found, ("pairs.jsonl", "other.jsonl")):
        margins = margins_by_hand(place, file)
        assert one.implicit.accuracy.value == pytest.approx((margins > 0).mean())
        chances = 1 / (1 + np.exp(-margins))
        assert one.implicit.calibration.brier == pytest.approx(((1 - chances) ** 2).mean(), abs=1e-5)
        assert one.implicit.calibration.log_score == pytest.approx(-np.log(chances).mean(), abs=1e-5)
        assert one.explicit is not None and one.difference is not None
        gap = one.implicit.accuracy.value - one.explicit.accuracy.value
        assert one.difference.value == pytest.approx(gap)
        assert one.difference.low <= gap <= one.difference.high
        right, prompts = (margins > 0).astype(float), np.arange(len(margins)) // 2  # every prompt has two pairs
        assert one.num_prompts == len(margins) // 2
        assert one.implicit.accuracy == pytest.approx(clustered_share(right, np.ones(len(right)), prompts))


def test_implicit_rewards_judge_any_texts(place: Path) -> None:
    """As a judge beside a reward model: margins as by hand, and the accuracy of `eval rewards`."""
    rewards_of = ImplicitRewards(read_run(place / "dpo"))
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    values = [
        rewards_of([row["prompt"] for row in rows], [row[side] for row in rows]) for side in ("chosen", "rejected")
    ]
    np.testing.assert_allclose(values[0] - values[1], margins_by_hand(place, "pairs.jsonl"), atol=1e-5)
    names = [f"implicit:{place / 'dpo'}", f"rm:{place / 'rm'}"]
    items = read_items(str(place / "pairs.jsonl"))
    compared = compare_judges([open_judge(name) for name in names], ["policy", "model"], items, "pairs.jsonl")
    (known,) = compare_rewards(read_run(place / "dpo"), [str(place / "pairs.jsonl")], against=names[1])
    assert known.explicit is not None
    for one, other in zip(compared.judges, (known.implicit, known.explicit)):
        assert one.accuracy.value == pytest.approx(other.accuracy.value)
        assert one.calibration is not None
        assert one.calibration.brier == pytest.approx(other.calibration.brier, abs=1e-5)
    with pytest.raises(DataError, match="holds no finished run of `preftree dpo`"):
        open_judge(f"implicit:{place / 'rm'}")


def test_the_command_writes_a_table_and_a_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rewards", str(place / "dpo"), "--data", str(place / "pairs.jsonl"), "--ood", str(place / "other.jsonl")]
    monkeypatch.setattr(sys, "argv", ["preftree", "eval", *words, "--against", str(place / "rm")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "difference" in capsys.readouterr().out
    kept = json.loads((place / "dpo" / "rewards.json").read_text())
    assert kept["against"].startswith(str(place / "rm"))
    assert [one["num_pairs"] for one in kept["data"]] == [24, 12]
    assert set(kept["data"][0]["explicit"]) >= {"accuracy", "calibration_error", "brier", "reliability"}


def test_a_full_disk_is_a_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("preftree.storage.atomic.write_atomic", full)
    with pytest.raises(WriteError, match=r"rewards.json cannot be written \(No space left on device\); fix that"):
        rewards(str(place / "dpo"), data=str(place / "other.jsonl"))


def test_without_a_reward_model(place: Path) -> None:
    (found,) = compare_rewards(read_run(place / "dpo"), [str(place / "other.jsonl")])
    assert found.explicit is None
    assert found.as_json()["difference"] is None


def test_what_cannot_be_compared_is_named(place: Path, tmp_path: Path) -> None:
    run = read_run(place / "dpo")
    file = str(place / "pairs.jsonl")
    with pytest.raises(DataError, match="holds no finished run of `preftree dpo`"):
        compare_rewards(read_run(place / "rm"), [file])
    with pytest.raises(ModelError, match="is a language model, wanted a reward model"):
        compare_rewards(run, [file], against=str(place / "model"))
    with pytest.raises(ConfigError, match="against must name the folder of a reward model, got 'world:small'"):
        compare_rewards(run, [file], against="world:small")
    (tmp_path / "ties.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c", "tie": True}))
    with pytest.raises(DataError, match="holds 0 pairs that can be compared"):
        compare_rewards(run, [str(tmp_path / "ties.jsonl")])

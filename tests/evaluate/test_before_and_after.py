"""Answers before and after training, against the model folders read by transformers alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from preftree.config.load import load_config
from preftree.config.online import RlooConfig
from preftree.config.reward import RewardConfig
from preftree.errors import ConfigError
from preftree.evaluate.in_memory import before_and_after
from preftree.evaluate.in_memory.after_training import run_recipe
from preftree.run_folder.measured_file import Answered, read_measured
from support.small_runs import dpo_config, make_model, make_pairs, sft_config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(before_and_after, "LONGEST_ANSWER", 12)
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 40)
    return tmp_path


def most_likely(model_folder: Path, prompt: str, most: int) -> str:
    """The answer by a loop over transformers' own forward."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder).eval()
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(most):
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            return tokenizer.decode(ids[start:], skip_special_tokens=True)
        ids = [*ids, token]
    return tokenizer.decode(ids[start:], skip_special_tokens=True) + " …"


def answers_of(out: Path) -> tuple[Answered, ...]:
    return read_measured(out / "measured.json").answers


def test_answers_are_the_most_likely_ones_of_start_and_policy(folder: Path) -> None:
    run_recipe(dpo_config(folder, "run", "max_steps=6", "lr=1e-2", "eval_data=0.4"))
    measured = read_measured(folder / "run" / "measured.json")
    assert len(measured.answers) == 6 and measured.answers_held_out
    for answer in measured.answers:
        assert answer.before == most_likely(folder / "model", answer.prompt, 12)
        assert answer.after == most_likely(folder / "run" / "model", answer.prompt, 12)
    assert any(answer.before != answer.after for answer in measured.answers)


def test_an_adapter_and_demonstrations(folder: Path) -> None:
    run_recipe(dpo_config(folder, "lora", "max_steps=4", "lr=1e-2", "lora.r=4", "answers=2"))
    kept = answers_of(folder / "lora")
    assert len(kept) == 2
    assert [answer.before for answer in kept] == [most_likely(folder / "model", a.prompt, 12) for a in kept]
    run_recipe(sft_config(folder, "sft", "max_steps=4", "lr=1e-2", "answers=3"))
    kept = answers_of(folder / "sft")
    assert len(kept) == 3 and not read_measured(folder / "sft" / "measured.json").answers_held_out
    assert [answer.after for answer in kept] == [most_likely(folder / "sft" / "model", a.prompt, 12) for a in kept]


def test_a_resumed_run_still_knows_its_start(folder: Path) -> None:
    run_recipe(dpo_config(folder, "whole", "max_steps=6", "lr=1e-2"))
    run_recipe(dpo_config(folder, "parts", "max_steps=3", "lr=1e-2", "schedule=constant", "save_every=3"))
    run_recipe(dpo_config(folder, "parts", "max_steps=6", "lr=1e-2", "schedule=constant", "save_every=3"))
    before = [answer.before for answer in answers_of(folder / "whole")]
    assert [answer.before for answer in answers_of(folder / "parts")] == before


def test_training_is_the_same_with_and_without_answers(folder: Path) -> None:
    run_recipe(dpo_config(folder, "with", "max_steps=4"))
    run_recipe(dpo_config(folder, "without", "max_steps=4", "answers=0"))
    assert not answers_of(folder / "without")
    weights = [(folder / name / "model" / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert weights[0] == weights[1]


def test_online_runs_answer_too(folder: Path) -> None:
    (folder / "length.py").write_text("def shorter(prompt, response):\n    return -len(response)\n")
    words = [f"model={folder / 'model'}", f"data={folder / 'pairs.jsonl'}", f"out={folder / 'rloo'}"]
    words += [f"reward={folder / 'length.py'}:shorter", "batch_size=8", "samples_per_prompt=2", "max_steps=1"]
    run_recipe(load_config(RlooConfig, [*words, "max_new_tokens=6", "lr=1e-3", "answers=2"]))
    kept = answers_of(folder / "rloo")
    assert [answer.before for answer in kept] == [most_likely(folder / "model", a.prompt, 6) for a in kept]


def test_a_prompt_that_is_too_long_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before_and_after, "LONGEST_PROMPT", 1)
    run_recipe(dpo_config(folder, "run", "max_steps=1"))
    assert not answers_of(folder / "run")


def test_a_reward_model_answers_nothing(folder: Path) -> None:
    words = [f"model={folder / 'model'}", f"data={folder / 'pairs.jsonl'}", f"out={folder / 'rm'}"]
    assert load_config(RewardConfig, words).answers == 0
    with pytest.raises(ConfigError, match="a reward model answers no prompts"):
        load_config(RewardConfig, [*words, "answers=2"])


@pytest.mark.parametrize("when", [1, 2])
def test_answers_that_fail_fail_no_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, when: int, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[object] = []
    answer = before_and_after.Questions.answer

    def full(questions: before_and_after.Questions) -> list[str]:
        calls.append(questions)
        if len(calls) == when:
            raise torch.OutOfMemoryError("no room")
        return answer(questions)

    monkeypatch.setattr(before_and_after.Questions, "answer", full)
    with caplog.at_level("WARNING", "preftree"):
        run_recipe(dpo_config(folder, "run", "max_steps=1"))
    assert "no answers in the report: no room" in caplog.text
    assert (folder / "run" / "summary.json").exists() and not answers_of(folder / "run")

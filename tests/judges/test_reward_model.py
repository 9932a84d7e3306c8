"""A reward model as a judge: it sees just what it saw in training."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from preftree.data.tokens.budgets import Budgets
from preftree.data.tokens.encoder import make_encoder
from preftree.data.tokens.sampled_responses import encode_answers
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import ConfigError, JudgeError, ModelError
from preftree.judges.rewards import load_rewards
from preftree.records import Message
from support.models import tiny_llama
from support.rewards import plain_ids, reward_model
from support.small_runs import make_model
from support.tokenizers import chat_tokenizer, plain_tokenizer

TEXTS = [("the plot", " was good"), ("the plot", " was bad"), ("", " fine"), ("a movie", "")]
TURNS = (Message("system", "Be brief."), Message("user", "the plot?"))


def chat_model(folder: Path, **lengths: object) -> Path:
    """A reward model with a chat template, its head random."""
    tokenizer = chat_tokenizer()
    tiny_llama(len(tokenizer)).save_pretrained(folder / "lm")
    model = reward_model(folder / "lm")
    model.config.preftree_lengths = lengths
    model.save_pretrained(folder / "rm")
    tokenizer.save_pretrained(folder / "rm")
    return folder / "rm"


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("policy", ["drop", "trim_response", "trim_prompt"])
def test_the_ids_are_those_of_a_data_file(tmp_path: Path, bos: bool, policy: str) -> None:
    tokenizer = chat_tokenizer(bos=bos)
    said = [{"role": turn.role, "content": turn.content} for turn in TURNS]
    rows = [{"prompt": prompt, "completion": response} for prompt, response in TEXTS[:3]]
    rows.append({"prompt": said, "completion": [{"role": "assistant", "content": "It is good."}]})
    budgets = Budgets() if policy == "drop" else Budgets(max_length=14 if policy == "trim_prompt" else 60)
    if policy == "trim_response":
        budgets = Budgets(60, max_response_length=2)
    expected = []
    for number, row in enumerate(rows):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        store, _ = tokenize_file(
            str(path), tokenizer, kind="demonstration", cache_dir=tmp_path, budgets=budgets, truncation=policy
        )
        expected.append(store[0].sequences[0].ids.tolist())
    prompts = [*(prompt for prompt, _ in TEXTS[:3]), TURNS]
    responses = [*(response for _, response in TEXTS[:3]), "It is good."]
    shown, answers, as_text = encode_answers(
        tokenizer, make_encoder(tokenizer), prompts, responses, budgets=budgets, truncation=policy
    )
    assert [[*ids, *answer] for ids, answer in zip(shown, answers)] == expected
    assert not any(as_text)


@pytest.mark.parametrize("response", ["It is<|im_start|> good", "<|endoftext|>", "", "x<|im_end|>y<|im_end|>"])
def test_a_special_token_in_a_sample_is_judged_as_text_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, response: str
) -> None:
    """Its reward is that of the answer without special tokens, and a warning counts it."""
    rewards = load_rewards(f"rm:{chat_model(tmp_path)}", device="cpu")
    bare = re.sub(r"<\|\w+\|>", "", response)
    found = rewards([TURNS, TURNS, TURNS], [response, bare, "another"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert abs(found[2] - found[0]) > 1e-4
    told = "1 of 3 responses hold special tokens or marks of the chat template; they are judged as text"
    assert (told in caplog.text) == bool(response)


def test_a_reward_is_the_models_own(tmp_path: Path) -> None:
    make_model(tmp_path / "lm")
    model = reward_model(tmp_path / "lm")
    model.save_pretrained(tmp_path / "rm")
    tokenizer = plain_tokenizer()
    tokenizer.save_pretrained(tmp_path / "rm")
    prompts, responses = zip(*TEXTS)
    ours = load_rewards(f"rm:{tmp_path / 'rm'}", device="cpu")(prompts, responses)
    ids = [plain_ids(tokenizer, *texts) for texts in TEXTS]
    ids[2] = [tokenizer.eos_token_id, *ids[2]]  # nothing else could predict its first token
    with torch.no_grad():
        plain = [float(model(input_ids=torch.tensor([own])).logits[0, 0]) for own in ids]
    assert ours.tolist() == pytest.approx(plain, abs=1e-5)
    assert np.ptp(ours) > 0.01


def test_batches_and_conversations_give_the_same(tmp_path: Path) -> None:
    rewards = load_rewards(str(chat_model(tmp_path)))
    prompts = [TURNS, "the plot", TURNS, TURNS[1:], ""]
    responses = ["It is good.", " was good", "It is bad.", "It is good.", " fine"]
    together = rewards(prompts, responses)
    alone = [float(rewards([prompt], [response])[0]) for prompt, response in zip(prompts, responses)]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    assert len(set(together.round(4))) == 5
    assert rewards([], []).shape == (0,)


def test_a_run_and_its_model_are_the_same(tmp_path: Path) -> None:
    folder = chat_model(tmp_path)
    folder.rename(tmp_path / "run")
    (tmp_path / "run" / "model").mkdir()
    for path in list((tmp_path / "run").iterdir()):
        if path.is_file():
            path.rename(tmp_path / "run" / "model" / path.name)
    found = [load_rewards(spec)(["a"], [" b"]) for spec in (f"rm:{tmp_path / 'run'}", str(tmp_path / "run" / "model"))]
    assert found[0] == found[1]


def test_what_is_no_reward_model_is_named(tmp_path: Path) -> None:
    make_model(tmp_path / "lm")
    with pytest.raises(ModelError, match="is a language model, wanted a reward model"):
        load_rewards(f"rm:{tmp_path / 'lm'}")
    with pytest.raises(ConfigError, match=r"holds no model; give a folder"):
        load_rewards(f"rm:{tmp_path}")
    with pytest.raises(ConfigError, match=r"reward must be world:NAME"):
        load_rewards("nothing-here")
    rewards = load_rewards(str(chat_model(tmp_path, max_prompt_length=2, truncation="trim_response")))
    with pytest.raises(JudgeError, match=r"'prompt' makes \d+ tokens, over max_prompt_length 2"):
        rewards(["the plot of the movie"], [" good"])

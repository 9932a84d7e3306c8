"""Rewards on trees are those of transformers' own forward, text by text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from preftree.data.store.end_marked import mark_end
from preftree.errors import ModelError, TrainingError
from preftree.models.load import load_model
from preftree.models.reward_model import grow_reward_model, load_reward_model, reward_head
from preftree.scoring.attention.dispatch import plain_attention
from preftree.scoring.attention.types import TreeMask
from preftree.scoring.reward_scorer import RewardScorer
from preftree.scoring.scorer import Scorer
from preftree.scoring.verify import verify_rewards
from support.models import random_sequences, tiny
from support.rewards import reward_model
from support.tokenizers import plain_tokenizer


def groups(seed: int = 0) -> list:
    """Texts that share prompts and beginnings; one is the beginning of another."""
    rng = np.random.default_rng(seed)
    found = [random_sequences(rng, responses=3, prompt=int(rng.integers(1, 20)), alphabet=6) for _ in range(4)]
    ids = [[sequence.ids for sequence in group] for group in found]
    ids[0].append(ids[0][0][: len(ids[0][0]) // 2 + 1])
    return [[mark_end(own) for own in group] for group in ids]


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "gemma2", "mistral", "gpt_neox", "opt"])
def test_trees_and_rows_agree(tmp_path: Path, name: str) -> None:
    model = reward_model(tmp_path / name, name)
    some = groups()
    with torch.no_grad():
        texts = [sequence.ids[:-1] for group in some for sequence in group]
        plain = [model(input_ids=torch.from_numpy(ids)[None].long(), use_cache=False).logits[0, 0] for ids in texts]
        scorer = RewardScorer(model)
        batch = scorer.lay_out(some)
        ours = scorer(batch)
    assert len(batch.input_T) < sum(map(len, texts))  # a prompt is computed once
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, torch.stack(plain), atol=1e-5, rtol=1e-5)
    assert verify_rewards(scorer, some).difference < 1e-4


def test_gradients_are_those_of_the_plain_forward(tmp_path: Path) -> None:
    ours, theirs = (reward_model(tmp_path / "llama").double() for _ in range(2))
    some = groups()
    weight = torch.linspace(-1, 1, 13, dtype=torch.float64)
    scorer = RewardScorer(ours)
    (scorer(scorer.lay_out(some)) * weight).sum().backward()
    texts = [torch.from_numpy(sequence.ids[:-1])[None].long() for group in some for sequence in group]
    (torch.stack([theirs(input_ids=ids, use_cache=False).logits[0, 0] for ids in texts]) * weight).sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)  # norms run in fp32


def test_padding_ends_a_text_as_it_does_in_transformers(tmp_path: Path) -> None:
    model = reward_model(tmp_path / "llama")
    model.config.pad_token_id = 2  # some train with the EOS as padding, and read before it
    some = [[mark_end(np.array([5, 6, 7, 2], np.int32), 2), mark_end(np.array([5, 6, 7, 8], np.int32), 2)]]
    assert [len(sequence.ids) for sequence in some[0]] == [4, 5]
    scorer = RewardScorer(model)
    with torch.no_grad():
        ours = scorer(scorer.lay_out(some))
        with plain_attention(model):
            plain = model(input_ids=torch.tensor([[5, 6, 7, 2], [5, 6, 7, 8]]), use_cache=False).logits[:, 0]
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


def test_the_gate_catches_a_mask_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from preftree.scoring.attention import dispatch as attention

    real = attention.tree_attention

    def narrow(*args: object, **options: object) -> object:
        tree = replace(cast(TreeMask, options["tree"]), windows={})  # what the masks of transformers tell
        return real(*args, **(options | {"sliding_window": 2, "tree": tree}))  # pyright: ignore[reportArgumentType]

    scorer = RewardScorer(reward_model(tmp_path / "llama"))
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.IMPLEMENTATION, narrow)
    with pytest.raises(TrainingError, match=r"reward .* on a packed tree and .* in the plain forward"):
        verify_rewards(scorer, groups())


def test_the_gate_looks_through_a_head_of_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny("llama").save_pretrained(tmp_path / "llama")
    model = grow_reward_model(tmp_path / "llama", plain_tokenizer())
    scorer = RewardScorer(model)
    with torch.no_grad():
        assert not scorer(scorer.lay_out(groups())).any()
    assert 0 < verify_rewards(scorer, groups()).difference < 1e-4
    assert not reward_head(model).weight.any()


def test_an_empty_batch_is_part_of_the_graph(tmp_path: Path) -> None:
    scorer = RewardScorer(reward_model(tmp_path / "llama"))
    scorer(scorer.lay_out([])).sum().backward()
    assert reward_head(scorer.model).weight.grad is not None


def test_the_wrong_kind_of_model_is_named(tmp_path: Path) -> None:
    tiny("gpt2").save_pretrained(tmp_path / "lm")
    model = reward_model(tmp_path / "lm", "gpt2")
    model.save_pretrained(tmp_path / "rm")
    with pytest.raises(ModelError, match=r"'.*lm' is a language model, wanted a reward model"):
        load_reward_model(tmp_path / "lm")
    with pytest.raises(ModelError, match=r"'.*rm' is a reward model, wanted a causal language model"):
        load_model(tmp_path / "rm")
    with pytest.raises(ModelError, match="has a reward head already"):
        grow_reward_model(tmp_path / "rm", plain_tokenizer())
    with pytest.raises(ModelError, match="no linear LM head"):
        Scorer(model)
    with pytest.raises(ModelError, match="no head `score` with one output"):
        RewardScorer(tiny("llama"))
    with pytest.raises(ModelError, match="does not exist"):
        load_reward_model(tmp_path / "nowhere")

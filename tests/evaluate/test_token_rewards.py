"""Token rewards are what the models' own plain forwards say, and token texts are the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from preftree.data.store.store import TokenExample
from preftree.evaluate.token_rewards import token_rewards, token_texts
from preftree.records import Provenance
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TokenSequence
from support.models import tiny_llama
from support.tables import build
from support.tokenizers import EOS, plain_tokenizer

TEXTS = ["a naïve café — costs 3 €", "日本語のテキスト", "emoji 🦜🌲 and  spaces\n\nlines", "plain words only"]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Characters outside ASCII take several of its tokens."""
    return plain_tokenizer(texts=["the words are plain words"], vocab_size=300)


def plain_token_logps(model: PreTrainedModel, sequence: TokenSequence) -> np.ndarray:
    """Log-probs of the scored tokens by transformers' own forward."""
    ids = torch.from_numpy(sequence.ids.astype(np.int64))
    with torch.no_grad():
        logps = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
    taken = logps[torch.arange(len(ids) - 1), ids[1:]].numpy()
    return taken[sequence.scored[1:]]


def pair(tokenizer: PreTrainedTokenizerFast) -> TokenExample:
    prompt = tokenizer.encode(TEXTS[0])
    sequences = []
    for text in TEXTS[1:3]:
        response = [*tokenizer.encode(text), tokenizer.eos_token_id]
        ids = np.array([*prompt, *response], np.int32)
        sequences.append(TokenSequence(ids, np.arange(len(ids)) >= len(prompt)))
    return TokenExample(tuple(sequences), 1.0, None, False, Provenance("prefs.jsonl", 3))


def test_rewards_equal_plain_forwards_and_sum_to_the_implicit_reward(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    example = pair(tokenizer)
    policy, ref = tiny_llama(300, seed=1), tiny_llama(300, seed=2)
    wanted = [0.3 * (plain_token_logps(policy, s) - plain_token_logps(ref, s)) for s in example.sequences]
    scorers = Scorer(policy), Scorer(ref)
    (told,) = token_rewards(*scorers, [example], beta=0.3, tokenizer=tokenizer)
    assert told.prompt == TEXTS[0]
    assert told.where == "prefs.jsonl:3"
    for tokens, text, rewards in zip((told.chosen, told.rejected), TEXTS[1:3], wanted, strict=True):
        assert "".join(token.text for token in tokens) == f"{text}{EOS}"
        found = [token.reward for token in tokens]
        np.testing.assert_allclose(np.array(found, float), rewards, atol=2e-6)
        assert sum(r for r in found if r is not None) == pytest.approx(rewards.sum(), abs=1e-5)

    table, _ = build(tmp_path, scorers[1], [example.sequences])
    (cached,) = token_rewards(scorers[0], table, [example], beta=0.3, tokenizer=tokenizer)
    assert cached == told


def test_tokens_that_are_not_scored_have_no_reward() -> None:
    tokenizer = byte_tokenizer()
    example = pair(tokenizer)
    gap = int(np.flatnonzero(example.sequences[0].scored)[0]) + 2
    example.sequences[0].scored[gap] = False  # a turn of the user within the response, say
    (told,) = token_rewards(
        Scorer(tiny_llama(300, seed=1)), Scorer(tiny_llama(300)), [example], beta=1.0, tokenizer=tokenizer
    )
    assert [token.reward is None for token in told.chosen] == [index == 2 for index in range(len(told.chosen))]
    assert all(token.reward == 0 for token in told.chosen[:2]) is False


def test_what_is_no_pair_is_refused() -> None:
    tokenizer, scorer = byte_tokenizer(), Scorer(tiny_llama(300))
    example = pair(tokenizer)
    with pytest.raises(ValueError, match="beta must be > 0"):
        token_rewards(scorer, scorer, [example], beta=0.0, tokenizer=tokenizer)
    single = TokenExample(example.sequences[:1], 1.0, None, False, Provenance("d.jsonl", 9))
    with pytest.raises(ValueError, match=r"d\.jsonl:9 has 1 responses, a pair has 2"):
        token_rewards(scorer, scorer, [single], beta=1.0, tokenizer=tokenizer)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_byte_tokens_join_to_the_text(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = np.array(tokenizer.encode(text), np.int32)
    pieces = token_texts(ids, tokenizer)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_texts_of_whole_words_keep_the_spaces_between_them() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "movie": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert token_texts(np.array([1, 2, 1], np.int32), words) == ["the", " movie", " the"]

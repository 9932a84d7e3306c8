from __future__ import annotations

import numpy as np
import pytest
import torch

from preftree.errors import ModelError
from preftree.scoring.attention.dispatch import plain_attention
from preftree.scoring.scorer import Scorer
from preftree.scoring.vocabulary import token_divergence
from preftree.tree.layout import TokenSequence
from support.models import random_sequences, tiny, tiny_llama
from support.precision import TrulyFloat64


def naive(policy, reference, sequence: TokenSequence) -> torch.Tensor:
    """From transformers' own logits over the whole sequence."""
    ids = torch.from_numpy(sequence.ids.astype(np.int64))[None]
    both = []
    for model in (policy, reference):
        with torch.no_grad(), plain_attention(model):
            both.append(model(input_ids=ids).logits[0, :-1].double().log_softmax(-1))
    kl = (both[0].exp() * (both[0] - both[1])).sum(-1)
    return kl[torch.from_numpy(sequence.scored[1:])]


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "gptj"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_kl_of_whole_distributions(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preftree.scoring.head.CHUNK_ELEMENTS", 16 * 101 * 2)  # several chunks
    monkeypatch.setattr("preftree.scoring.head.LEAST_ROWS", 16)
    rng = np.random.default_rng(0)
    groups = [random_sequences(rng, responses=3, prompt=12) for _ in range(4)]
    one, other = (tiny(name, seed=seed, dtype=dtype) for seed in (0, 1))
    with TrulyFloat64() if dtype == torch.float64 else torch.no_grad():
        expected = torch.cat([naive(one, other, sequence) for group in groups for sequence in group])
        policy, reference = Scorer(one), Scorer(other)
        found = token_divergence(policy, reference, policy.lay_out(groups))
    assert expected.mean() > 0.01
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-10 if dtype == torch.float64 else 2e-5)


def test_a_model_is_at_no_distance_from_itself() -> None:
    scorer = Scorer(tiny("llama"))
    groups = [random_sequences(np.random.default_rng(1), responses=2, prompt=5)]
    assert token_divergence(scorer, Scorer(tiny("llama")), scorer.lay_out(groups)).abs().max() == 0
    assert token_divergence(scorer, scorer, scorer.lay_out([])).shape == (0,)


def test_other_vocabularies_are_refused() -> None:
    scorer = Scorer(tiny_llama(40))
    groups = [[TokenSequence(np.array([1, 2, 3], np.int32), np.array([False, True, True]))]]
    with pytest.raises(ModelError, match="have 50 and 40 tokens"):
        token_divergence(scorer, Scorer(tiny_llama(50)), scorer.lay_out(groups))


def test_a_model_of_trees_and_one_of_rows_meet_in_rows() -> None:
    policy, reference = Scorer(tiny("llama")), Scorer(tiny("gptj"))
    groups = [random_sequences(np.random.default_rng(2), responses=3, prompt=9)]
    found = token_divergence(policy, reference, reference.lay_out(groups))
    expected = torch.cat([naive(policy.model, reference.model, sequence) for sequence in groups[0]])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)

"""Figures over the vocabulary against transformers' own logits of the whole sequence, their gradients included."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from preftree.errors import ModelError
from preftree.scoring.attention.dispatch import plain_attention
from preftree.scoring.scorer import Scorer
from preftree.scoring.vocabulary import token_figures
from preftree.tree.layout import TokenSequence
from support.models import random_sequences, tiny, tiny_llama
from support.precision import TrulyFloat64


def all_logps(model, sequence: TokenSequence) -> Tensor:
    """Log-probs of the whole vocabulary at the scored places."""
    ids = torch.from_numpy(sequence.ids.astype(np.int64))[None]
    with plain_attention(model):
        logps = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    return logps[torch.from_numpy(sequence.scored[1:])]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "cohere", "phi", "gptj"])
def test_figures_are_those_of_whole_distributions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preftree.scoring.head.CHUNK_ELEMENTS", 16 * 101 * 2)  # several chunks
    monkeypatch.setattr("preftree.scoring.head.LEAST_ROWS", 16)
    rng = np.random.default_rng(0)
    groups = [random_sequences(rng, responses=3, prompt=12, most=12) for _ in range(4)]
    one, other = (tiny(name, seed=seed, dtype=torch.float64) for seed in (0, 1))
    with TrulyFloat64():
        policy, reference = Scorer(one), Scorer(other)
        batch = policy.lay_out(groups)
        found = token_figures(policy, batch, live=lambda: nullcontext(reference), kl=True, confidence=True)
        assert found.ref is not None and found.kl is not None and found.confidence is not None
        coefficients = torch.from_numpy(rng.normal(size=(2, len(found.kl))))
        (coefficients[0] * found.kl + coefficients[1] * found.policy).sum().backward()
        ours = [p.grad.clone() for p in one.parameters() if p.grad is not None]
        one.zero_grad(set_to_none=True)

        parts = []
        for sequence in (sequence for group in groups for sequence in group):
            logps, target = all_logps(one, sequence), torch.from_numpy(sequence.ids[sequence.scored].astype(np.int64))
            with torch.no_grad():
                ref = all_logps(other, sequence)
            own = logps.gather(1, target[:, None])[:, 0]
            collision = logps.exp().square().sum(1).log()
            kl = (ref.exp() * (ref - logps)).sum(1)
            parts.append(torch.stack([own, ref.gather(1, target[:, None])[:, 0], kl, own - collision]))
        expected = torch.cat(parts, dim=1)
        (coefficients[0] * expected[2] + coefficients[1] * expected[0]).sum().backward()
        theirs = [p.grad for p in one.parameters() if p.grad is not None]
    for values, column in zip(found, expected, strict=True):
        assert values is not None
        torch.testing.assert_close(values, column, rtol=0, atol=1e-9)
    assert not found.confidence.requires_grad and not found.ref.requires_grad
    assert expected[2].mean() > 0.01
    assert len(ours) == len(theirs)
    for mine, other_grad in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other_grad, rtol=1e-7, atol=1e-9)
    assert all(p.grad is None for p in other.parameters())


def test_the_same_model_is_at_no_distance() -> None:
    scorer = Scorer(tiny("llama"))
    batch = scorer.lay_out([random_sequences(np.random.default_rng(1), responses=2, prompt=5)])
    found = token_figures(scorer, batch, live=lambda: nullcontext(Scorer(tiny("llama"))), kl=True)
    assert found.kl is not None and found.ref is not None and found.confidence is None
    assert found.kl.abs().max() == 0
    assert torch.equal(found.ref, found.policy)
    assert torch.equal(found.policy, scorer(batch))


def test_nothing_to_score_is_part_of_the_graph() -> None:
    scorer = Scorer(tiny("llama"))
    found = token_figures(scorer, scorer.lay_out([]), live=lambda: nullcontext(scorer), kl=True, confidence=True)
    assert found.kl is not None and found.kl.shape == (0,)
    (found.kl.sum() + found.policy.sum()).backward()


def test_other_vocabularies_are_refused() -> None:
    scorer, other = Scorer(tiny_llama(40)), Scorer(tiny_llama(50))
    groups = [[TokenSequence(np.array([1, 2, 3], np.int32), np.array([False, True, True]))]]
    with pytest.raises(ModelError, match="have 40 and 50 tokens"):
        token_figures(scorer, scorer.lay_out(groups), live=lambda: nullcontext(other), kl=True)

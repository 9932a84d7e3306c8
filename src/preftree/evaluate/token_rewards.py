"""Implicit rewards of a pair, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from transformers import PreTrainedTokenizerBase

from preftree.data.store.example import TokenExample
from preftree.reference.store import ReferenceTable
from preftree.run_folder.measured_file import PairRewards, TokenReward
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TokenSequence


def token_rewards(
    policy: Scorer,
    ref: Scorer | ReferenceTable,
    examples: Sequence[TokenExample],
    *,
    beta: float,
    tokenizer: PreTrainedTokenizerBase,
) -> list[PairRewards]:
    """beta x (log policy - log reference) of every token of a few pairs; they sum to the response's implicit reward.

    Args:
      policy: Scores the responses, one example at a time.
      ref: Scores them as well, or holds what the reference gave them.
      examples: Pairs: chosen and rejected.
      beta: Strength of the KL constraint that the policy was trained with, > 0.
      tokenizer: Turns ids back into text.
    Raises:
      ValueError: an example is no pair, or beta <= 0.
      CacheError: the table lacks a response.
    """
    if beta <= 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    rewarded = []
    for example in examples:
        if len(example.sequences) != 2:
            raise ValueError(f"{example.provenance} has {len(example.sequences)} responses, a pair has 2")
        logps = _score(policy, example.sequences)
        ref_logps = _score(ref, example.sequences) if isinstance(ref, Scorer) else ref.gather(example.sequences)
        rewards = beta * (logps - ref_logps.astype(np.float64))
        counts = [int(sequence.scored.sum()) for sequence in example.sequences]
        chosen, rejected = np.split(rewards, [counts[0]])
        prompt, first = _response(example.sequences[0], chosen, tokenizer)
        _, second = _response(example.sequences[1], rejected, tokenizer)
        rewarded.append(
            PairRewards(prompt=prompt, chosen=first, rejected=second, beta=beta, where=str(example.provenance))
        )
    return rewarded


def _score(scorer: Scorer, sequences: Sequence[TokenSequence]) -> Float[np.ndarray, " I"]:
    with torch.no_grad():
        return scorer(scorer.lay_out([sequences])).double().cpu().numpy()


def _response(
    sequence: TokenSequence, rewards: Float[np.ndarray, " S"], tokenizer: PreTrainedTokenizerBase
) -> tuple[str, tuple[TokenReward, ...]]:
    """The text before the first scored token, and the tokens from there to the last scored one."""
    scored = np.flatnonzero(sequence.scored)
    start, stop = int(scored[0]), int(scored[-1]) + 1
    pieces = token_texts(sequence.ids[:stop], tokenizer)
    values: list[float | None] = [None] * stop
    for index, reward in zip(scored.tolist(), rewards.tolist(), strict=True):
        values[index] = reward
    tokens = zip(pieces[start:], values[start:], strict=True)
    return "".join(pieces[:start]), tuple(TokenReward(text=text, reward=value) for text, value in tokens)


def token_texts(ids: Int[np.ndarray, " L"], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each token adds; joined, they are the whole text.

    A character of several tokens is in the text of the last of them, and the others get an empty string.
    """
    texts: list[str] = []
    start, done = 0, ""
    for stop in range(1, len(ids) + 1):
        # A token's text depends on the token before it, so the last whole character is decoded along with it.
        whole = str(tokenizer.decode(ids[start:stop].tolist(), clean_up_tokenization_spaces=False))
        if whole.endswith("\ufffd") and stop < len(ids) and stop - start < 12:
            texts.append("")
            continue
        texts.append(whole[len(done) :])
        start = stop - 1
        done = str(tokenizer.decode(ids[start:stop].tolist(), clean_up_tokenization_spaces=False))
    return texts

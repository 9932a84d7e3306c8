"""The prompts of a run's own data, to sample from its policy as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from preftree.config.load import AnyConfig
from preftree.config.online import OnlineConfig
from preftree.data.prompts import PromptSet, open_prompts
from preftree.runtime.ranks import Ranks
from preftree.train.dataset import Subset, open_data
from preftree.train.objective import objective_of


def run_prompts(
    config: AnyConfig, tokenizer: PreTrainedTokenizerBase, ranks: Ranks, *, most: int, seed: int
) -> tuple[Prompts, bool]:
    """Some of the different prompts of a run's held-out rows, or of its training rows where none are held out.

    Args:
      config: The run's options.
      tokenizer: Tokenizer of the run.
      ranks: The ranks.
      most: Maximum number of prompts.
      seed: Seed of the choice.
    Returns:
      The prompts, as the policy was trained on them (template, trimming), and whether they are held out.
    Raises:
      DataError: the run's data cannot be read.
    """
    if isinstance(config, OnlineConfig):
        prompts = open_prompts(config.eval_data or config.data.path, tokenizer)
        return some_of_a_set(prompts, tokenizer, most=most, seed=seed), config.eval_data is not None
    data = open_data(config, tokenizer, ranks, objective_of(config))
    part = data.train if data.held_out is None else data.held_out
    return some_of_a_part(part, tokenizer, most=most, seed=seed), data.held_out is not None


def some_of_a_set(prompts: PromptSet, tokenizer: PreTrainedTokenizerBase, *, most: int, seed: int) -> Prompts:
    """Some of the different prompts of a set; arguments as in `run_prompts`."""
    _, rows = np.unique(prompts.same, return_index=True)
    return _decoded(tokenizer, [list(prompts.ids[row]) for row in _some(rows, most, seed).tolist()])


def some_of_a_part(part: Subset, tokenizer: PreTrainedTokenizerBase, *, most: int, seed: int) -> Prompts:
    """Some of the different prompts of tokenised rows, each as far as its first scored token."""
    _, first = np.unique(part.store.prompts[part.rows], return_index=True)
    ids = []
    for row in _some(part.rows[np.sort(first)], most, seed).tolist():
        sequence = part.store[row].sequences[0]
        ids.append(sequence.ids[: int(np.argmax(sequence.scored))].tolist())
    return _decoded(tokenizer, ids)


def _some(rows: Int[np.ndarray, " N"], most: int, seed: int) -> Int[np.ndarray, " M"]:
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[list[int]]) -> Prompts:
    return Prompts(
        ids,
        [str(tokenizer.decode(prompt, skip_special_tokens=True, clean_up_tokenization_spaces=False)) for prompt in ids],
    )


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts to sample responses for.

    Attributes:
      ids: Token ids of each prompt, as the policy was trained on it.
      texts: The prompts as text, without special tokens.
    """

    ids: Sequence[Sequence[int]]
    texts: Sequence[str]

"""The prompts of a run's own data, to sample from its policy as it was trained."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.config.schema import RunConfig
from preftree.distributed.world import World
from preftree.evaluate.frontier import Prompts
from preftree.train.rows import open_data


def run_prompts(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, world: World, *, most: int, seed: int
) -> tuple[Prompts, bool]:
    """Some of the different prompts of a run's held-out rows, or of its training rows where none are held out.

    Args:
      config: The run's options.
      tokenizer: The run's.
      world: The ranks.
      most: How many prompts.
      seed: Of the choice.
    Returns:
      The prompts, as the policy was trained on them (template, trimming), and whether they are held out.
    Raises:
      DataError: the run's data cannot be read.
    """
    data = open_data(config, tokenizer, world)
    part = data.train if data.held_out is None else data.held_out
    _, first = np.unique(part.store.prompts[part.rows], return_index=True)
    rows = part.rows[np.sort(first)]
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    ids = []
    for row in rows.tolist():
        sequence = part.store[row].sequences[0]
        ids.append(sequence.ids[: int(np.argmax(sequence.scored))].tolist())
    texts = [str(tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)) for own in ids]
    return Prompts(ids, texts), data.held_out is not None

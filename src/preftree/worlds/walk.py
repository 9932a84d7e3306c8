"""A language model's exact distribution over a world, by walking the tree of all its responses."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.errors import ModelError
from preftree.scoring.attention.dispatch import plain_attention
from preftree.worlds.exact import Outcomes
from preftree.worlds.grammar import WORDS, World


def outcome_logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    *,
    temperature: float = 1.0,
    batch_size: int = 3072,
) -> Float[np.ndarray, "X N"]:
    """Log-probs of every outcome of every prompt under a causal LM, [prompts, num_outcomes]; as `walk_outcomes`."""
    return walk_outcomes(model, tokenizer, world, temperature=temperature, batch_size=batch_size).logps


def walk_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    *,
    temperature: float = 1.0,
    batch_size: int = 3072,
) -> Outcomes:
    """Log-probs of every outcome of every prompt under a causal LM, and of every way out, nats, float64.

    A response of fewer than `max_words` words counts with the end-of-sequence token after it, one of `max_words` words
    without: sampling stops there. What the model puts anywhere else (an end that comes too early, a token that is no
    word) is added up where it happens and makes the last outcome. So each row sums to 1.

    A level of the tree is one batched forward of one token a row on the cache of the level above, cut into pieces that
    `batch_size` allows.

    Args:
      model: Any causal LM of transformers with a cache.
      tokenizer: Its tokenizer; each of WORDS must be one token.
      world: The prompts and the responses.
      temperature: Sampling temperature, > 0.
      batch_size: Most rows of one forward.
    Raises:
      ModelError: a word is not one token of this tokenizer.
      ConfigError: the world has too many outcomes; sample instead.
    """
    world.require_countable()
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError("the tokenizer has no end-of-sequence token; set eos_token")
    parents = max(1, batch_size // len(WORDS))
    walk = _Walk(model, _word_ids(tokenizer), tokenizer.eos_token_id, world, temperature, parents)
    with torch.inference_mode(), plain_attention(model):
        rows = [walk.outcomes(tokenizer(prompt)["input_ids"]) for prompt in world.prompts]
    return Outcomes(*(np.stack(table) for table in zip(*rows, strict=True)))


class _Walk:
    """One walk's constants, and the log-probs that it collects, [levels][prefixes of the level]."""

    def __init__(
        self, model: PreTrainedModel, words: list[int], end: int, world: World, temperature: float, parents: int
    ) -> None:
        self.model, self.world, self.temperature, self.parents = model, world, temperature, parents
        self.words = torch.tensor(words, device=model.device)
        self.end = end

    def outcomes(self, prompt: list[int]) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " E"]]:
        """The rows of one prompt: outcomes and exits."""
        sizes = [len(WORDS) ** level for level in range(self.world.max_words + 1)]
        self.ended = [torch.empty(size, dtype=torch.float64) for size in sizes]
        self.exits = [torch.empty((size, 2), dtype=torch.float64) for size in sizes[:-1]]
        output = self.model(input_ids=torch.tensor([prompt], device=self.model.device), use_cache=True)
        self._visit(output, torch.zeros(1, dtype=torch.float64), level=0, first=0)
        exits = torch.cat(self.exits).flatten()
        other = exits.logsumexp(0, keepdim=True)
        return torch.cat([*self.ended[self.world.min_words :], other]).numpy(), exits.numpy()

    def _visit(self, output: Any, prefix_N: Tensor, *, level: int, first: int) -> None:
        """Enter prefixes `first`, `first + 1`, ... of a level, whose log-probs are `prefix_N`, and all below them."""
        logits = output.logits[:, -1].double().cpu() / self.temperature
        token_NV = prefix_N[:, None] + logits.log_softmax(-1)
        word_NW = token_NV[:, self.words.cpu()]
        token_NV[:, self.words.cpu()] = -torch.inf
        exits_NE = self.exits[level][first : first + len(prefix_N)]
        exits_NE[:, 0] = token_NV[:, self.end]
        token_NV[:, self.end] = -torch.inf
        exits_NE[:, 1] = token_NV.logsumexp(1)
        if level >= self.world.min_words:  # an end in time is no exit
            self.ended[level][first : first + len(prefix_N)] = exits_NE[:, 0]
            exits_NE[:, 0] = -torch.inf
        if level + 1 == self.world.max_words:
            self.ended[-1][first * len(WORDS) : (first + len(prefix_N)) * len(WORDS)] = word_NW.flatten()
            return
        for start in range(0, len(prefix_N), self.parents):
            stop = min(start + self.parents, len(prefix_N))
            cache = output.past_key_values
            if stop - start < len(prefix_N):
                cache = copy.deepcopy(cache)
                cache.batch_select_indices(torch.arange(start, stop, device=self.words.device))
            cache.batch_repeat_interleave(len(WORDS))
            below = self.model(
                input_ids=self.words.repeat(stop - start)[:, None], past_key_values=cache, use_cache=True
            )
            self._visit(below, word_NW[start:stop].flatten(), level=level + 1, first=(first + start) * len(WORDS))


def _word_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in WORDS]
    if split := [word for word, word_ids in zip(WORDS, ids, strict=True) if len(word_ids) != 1]:
        raise ModelError(
            f"exact figures need one token a word, and {split[0]!r} is {len(ids[WORDS.index(split[0])])} tokens of "
            "this tokenizer; use a model that `preftree demo` made"
        )
    return [word_ids[0] for word_ids in ids]

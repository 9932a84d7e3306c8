"""The controlled sentiment task in small: everything that a run needs, written as the files that any run starts from.

A corpus to fine-tune on, a small untrained model with a tokenizer of whole words, and preferences between samples of
the fine-tuned model, labelled by a reward that is known. How far training went can then be said exactly (exact.py).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from preftree.generate.hf import Generation
from preftree.records import Demonstration, Preference
from preftree.worlds.grammar import WORDS, World, reward

_PROMPTS = ("the movie was", "the plot was very", "the movie was not")

WORLDS = {
    "tiny": World("tiny", _PROMPTS, min_words=3, max_words=3),
    "small": World("small", _PROMPTS, min_words=5, max_words=5),
}

SPECIAL = ("<unk>", "<eos>")


@dataclass(frozen=True, slots=True)
class Labeller:
    """Who says which of two responses is better, knowing their rewards.

    Attributes:
      kind: `bt` prefers a with probability sigmoid(scale x (r_a - r_b)); `deterministic` always the higher reward, and
        either of two equal ones with probability 1/2: the limit of a large scale.
      scale: s: the exact optimum of DPO on `bt` labels is reference x exp(s r / beta) / Z.
      flip: Probability that the answer is turned round, in [0, 0.5).
    """

    kind: Literal["bt", "deterministic"] = "bt"
    scale: float = 10.0
    flip: float = 0.0

    def chance(self, difference: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
        """Probability that the first response is preferred, from r_first - r_second."""
        if self.kind == "bt":
            clean = 0.5 * (1 + np.tanh(self.scale * difference / 2))
        else:
            clean = (1 + np.sign(difference)) / 2
        return clean * (1 - self.flip) + (1 - clean) * self.flip


@dataclass(frozen=True, slots=True)
class Pairs:
    """Labelled pairs, and what did not become one.

    Attributes:
      preferences: One row for each different pair; `weight` says how often it was drawn.
      num_drawn: Pairs that were drawn, repeats included.
      num_equal: Pairs left out because both responses were the same.
      num_unusable: Responses left out because they were empty or held a special token.
    """

    preferences: list[Preference]
    num_drawn: int
    num_equal: int
    num_unusable: int


def weigh_repeats(corpus: Iterable[Demonstration]) -> list[Demonstration]:
    """Each different text once, in the order of first sight, with the number of its occurrences as weight."""
    counts = Counter((row.prompt, row.response) for row in corpus)
    return [Demonstration(prompt, response, float(count)) for (prompt, response), count in counts.items()]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each of the twelve words, and an end-of-sequence token."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    # Stubs of tokenizers declare the property read-only.
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<eos>",
        unk_token="<unk>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of two layers, width 64: about 80 000 parameters, fp32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        pad_token_id=SPECIAL.index("<eos>"),
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<eos>"),
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def label_samples(
    world: World, samples: Sequence[tuple[str, Sequence[Generation]]], labeller: Labeller, seed: int
) -> Pairs:
    """All pairs among the responses drawn together, labelled.

    A pair that is drawn again is the same row with more weight and one label, since a file in which two rows contradict
    each other is faulty. The label's distribution is that of a single draw, so the optimum is unmoved.

    Args:
      world: Knows the rewards.
      samples: Prompts, each with the responses to compare with one another; a prompt may come up many times.
      labeller: Who says which is better.
      seed: Of the labels.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    num_equal = num_unusable = 0
    for prompt, generations in samples:
        usable = [one.text for one in generations if one.text and not set(one.text.split()) & set(SPECIAL)]
        num_unusable += len(generations) - len(usable)
        for pair in itertools.combinations(usable, 2):
            if pair[0] == pair[1]:
                num_equal += 1
            else:
                first, second = sorted(pair)
                counts[prompt, first, second] += 1
    difference = np.array([reward(world, prompt, a) - reward(world, prompt, b) for prompt, a, b in counts])
    first_wins = np.random.default_rng(seed).random(len(counts)) < labeller.chance(difference)
    preferences = [
        Preference(prompt, *((a, b) if wins else (b, a)), weight=float(count))
        for ((prompt, a, b), count), wins in zip(counts.items(), first_wins.tolist(), strict=True)
    ]
    return Pairs(preferences, counts.total(), num_equal, num_unusable)

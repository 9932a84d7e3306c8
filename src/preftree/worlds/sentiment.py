"""The controlled sentiment task on a small scale: all that a run needs, in the form of the files that runs start from.

A corpus to fine-tune on, a small untrained model with a tokenizer of whole words, and preferences between samples of
the fine-tuned model, labelled by a known reward. Reward and KL of the result are then exact (exact.py).
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

from preftree.errors import ConfigError
from preftree.generate.hf import Generation
from preftree.records import Demonstration, Preference
from preftree.worlds.grammar import WORDS, World, reward
from preftree.worlds.ties import Ties, win_chances

_PROMPTS = ("the movie was", "the plot was very", "the movie was not")
_MORE_PROMPTS = tuple(
    f"the {what} was{how}" for what in ("movie", "plot") for how in ("", " very", " not", " not very", " good the plot")
)

WORLDS = {
    "tiny": World("tiny", _PROMPTS, min_words=3, max_words=3),
    "varied": World("varied", _PROMPTS, min_words=1, max_words=4),
    "small": World("small", _PROMPTS, min_words=5, max_words=5),
    "text": World("text", _MORE_PROMPTS, min_words=12, max_words=12),
}
"""`text` has too many outcomes to count: what is measured there is sampled."""

SPECIAL = ("<unk>", "<eos>")


@dataclass(frozen=True, slots=True)
class Labeller:
    """Labeller that prefers one of two responses by their rewards.

    The strength of a pair is x = scale x (r_a - r_b + length_bias x (words_a - words_b)). With ties = "none", a is
    preferred with probability sigmoid(x); with a tie model, whose parameter is t, as `win_chances` says.

    Attributes:
      kind: `bt` as above; `deterministic` is its limit of a large scale: the higher reward always wins, and only where
        both are equal is there anything to draw.
      scale: s: the exact optimum of DPO on `bt` labels is reference x exp(s r / beta) / Z, with r + length_bias x words
        for r where there is a bias.
      flip: Probability that a label is flipped, in [0, 1]: at .5 labels say nothing, at 1 the opposite. A tie
        stays a tie.
      ties: The tie model.
      tie_parameter: t: >= 1 for Rao-Kupper, >= 0 for Davidson; 1 and unused without a tie model.
      length_bias: Reward per word that only the labeller sees.
    Raises:
      ConfigError: scale, flip or tie_parameter is out of its range.
    Source: Rao and Kupper 1967, JASA 62, p. 194; Davidson 1970, JASA 65, p. 317.
    """

    kind: Literal["bt", "deterministic"] = "bt"
    scale: float = 10.0
    flip: float = 0.0
    ties: Ties = "none"
    tie_parameter: float = 1.0
    length_bias: float = 0.0

    def __post_init__(self) -> None:
        least = {"none": 1.0, "rao_kupper": 1.0, "davidson": 0.0}[self.ties]
        if not self.scale > 0:
            raise ConfigError(f"a labeller's scale must be > 0, got {self.scale}")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"a labeller's flip must be in [0, 1], got {self.flip}")
        if not least <= self.tie_parameter < np.inf or (self.ties == "none" and self.tie_parameter != 1):
            wanted = "1 without a tie model" if self.ties == "none" else f">= {least:g} for ties={self.ties}"
            raise ConfigError(f"a labeller's tie_parameter must be {wanted}, got {self.tie_parameter}")

    def chances(
        self, difference: Float[np.ndarray, " P"], more_words: Float[np.ndarray, " P"] | float = 0.0
    ) -> Float[np.ndarray, "P 3"]:
        """Probabilities that the first response is preferred, the second, neither; rows sum to 1.

        Args:
          difference: r_first - r_second.
          more_words: Words of the first response less those of the second.
        """
        strength = difference + self.length_bias * more_words
        if self.kind == "bt":
            strength = self.scale * strength
        else:
            strength = np.where(strength == 0, 0.0, np.copysign(np.inf, strength))
        first, second = (win_chances(self.ties, side, self.tie_parameter) for side in (strength, -strength))
        kept, turned = (1 - self.flip) * first + self.flip * second, (1 - self.flip) * second + self.flip * first
        return np.stack([kept, turned, 1 - first - second], axis=1).clip(0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Labelled pairs, and counts of what was left out.

    Attributes:
      preferences: One row for each different pair, ties among them; `weight` says how often it was drawn.
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


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int, width: int = 64) -> LlamaForCausalLM:
    """An untrained Llama of two layers, fp32; about 80 000 parameters where it is 64 wide."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
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
      world: World that gives the rewards.
      samples: Prompts, each with the responses to compare with one another; a prompt may come up many times.
      labeller: Labeller of the pairs.
      seed: Seed of the labels.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    num_equal = num_unusable = 0
    for prompt, generations in samples:
        usable = [
            generation.text
            for generation in generations
            if generation.text and not set(generation.text.split()) & set(SPECIAL)
        ]
        num_unusable += len(generations) - len(usable)
        for pair in itertools.combinations(usable, 2):
            if pair[0] == pair[1]:
                num_equal += 1
            else:
                first, second = sorted(pair)
                counts[prompt, first, second] += 1
    difference = np.array([reward(world, prompt, a) - reward(world, prompt, b) for prompt, a, b in counts])
    more_words = np.array([float(len(a.split()) - len(b.split())) for _, a, b in counts])
    chances = labeller.chances(difference, more_words)
    drawn = np.random.default_rng(seed).random(len(counts))
    first_wins, tied = drawn < chances[:, 0], drawn >= chances[:, :2].sum(axis=1)
    if labeller.ties == "none":
        tied[:] = False  # rounding makes none
    preferences = [
        Preference(prompt, *((a, b) if wins or tie else (b, a)), weight=float(count), tie=tie)
        for ((prompt, a, b), count), wins, tie in zip(counts.items(), first_wins.tolist(), tied.tolist(), strict=True)
    ]
    return Pairs(preferences, counts.total(), num_equal, num_unusable)

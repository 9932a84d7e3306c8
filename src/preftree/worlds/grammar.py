"""A language of twelve words: a grammar to draw texts from, and a reward that can be worked out by hand.

Texts are about films and mildly negative. Adjectives have a polarity; `not` inverts the next word, `very` makes it
half as strong again, and the two may follow each other (`not very good`). So the reward is no bag of words. A prompt
may end in the middle of such a phrase.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from preftree.errors import ConfigError
from preftree.records import Demonstration

WORDS = ("movie", "plot", "the", "was", "very", "not", "good", "great", "fun", "bad", "dull", "awful")

POLARITY = {"good": 1.0, "great": 1.0, "fun": 1.0, "bad": -1.0, "dull": -1.0, "awful": -1.0}
FACTOR = {"not": -1.0, "very": 1.5}
SHARPNESS = 1.5

Grammar: TypeAlias = Mapping[str, Mapping[str, float]]
"""After each word, the words that may follow, with their weights."""

_ADJECTIVES = {"good": 15.0, "great": 9.0, "fun": 13.0, "bad": 24.0, "dull": 22.0, "awful": 17.0}
MILD: Grammar = {
    "the": {"movie": 50.0, "plot": 50.0},
    "movie": {"was": 70.0, "not": 10.0, "very": 10.0, "the": 10.0},
    "plot": {"was": 70.0, "not": 10.0, "very": 10.0, "the": 10.0},
    "was": {"very": 25.0, "not": 20.0, **_ADJECTIVES},
    "very": _ADJECTIVES,
    "not": {"very": 25.0, **_ADJECTIVES},
    **{word: {"the": 35.0, "very": 10.0, "not": 5.0, "movie": 5.0, "plot": 5.0, **_ADJECTIVES} for word in _ADJECTIVES},
}
_NOISE = 0.1

MOST_OUTCOMES = 4_000_000
"""Maximum number of outcomes of a prompt for exact figures: 32 MB for each row of a table."""


@dataclass(frozen=True, slots=True)
class World:
    """The prompts of a world and the responses that belong to it.

    A response is `min_words` to `max_words` words. One of `max_words` is cut there, as sampling with a limit does, and
    what would have followed does not matter; a shorter one ends with the end-of-sequence token. Anything else, such as
    an end too early, is one more outcome, `other`: its reward is 0.

    Attributes:
      name: Name of the world.
      prompts: Texts made of WORDS; all equally likely.
      min_words: Fewest words of a response.
      max_words: Most words of a response.
    """

    name: str
    prompts: tuple[str, ...]
    min_words: int
    max_words: int

    @property
    def num_outcomes(self) -> int:
        """Outcomes of one prompt: all responses, by length and then in the order of WORDS, and `other` as the last."""
        return sum(len(WORDS) ** length for length in range(self.min_words, self.max_words + 1)) + 1

    def require_countable(self) -> None:
        """Refuse exact figures of a world that has too many outcomes for them.

        Raises:
          ConfigError: more than MOST_OUTCOMES to a prompt.
        """
        if self.num_outcomes > MOST_OUTCOMES:
            raise ConfigError(
                f"the world {self.name!r} has {self.num_outcomes:.1e} outcomes to each prompt, exact figures allow "
                f"{MOST_OUTCOMES:.0e}; draw samples of the policy and take their mean reward and KL"
            )

    def responses(self) -> Iterator[str]:
        """The texts of all outcomes but the last, in order.

        Raises:
          ConfigError: there are too many.
        """
        self.require_countable()
        for length in range(self.min_words, self.max_words + 1):
            yield from (" ".join(words) for words in itertools.product(WORDS, repeat=length))

    def outcome(self, response: str) -> int:
        """Index of the outcome that a text is."""
        words = response.split()
        if not self.min_words <= len(words) <= self.max_words or not set(words) <= set(WORDS):
            return self.num_outcomes - 1
        index = 0
        for word in words:
            index = index * len(WORDS) + WORDS.index(word)
        return sum(len(WORDS) ** length for length in range(self.min_words, len(words))) + index


def reward(world: World, prompt: str, response: str) -> float:
    """sigmoid(1.5 x the summed polarity of prompt and response), in (0, 1); 0 for what is no response of this world."""
    if world.outcome(response) == world.num_outcomes - 1:
        return 0.0
    row = np.array([[WORDS.index(word) for word in prompt.split() + response.split()]])
    return float(_rewards_of(row)[0])


def reward_table(world: World) -> Float[np.ndarray, "X N"]:
    """The reward of every outcome of every prompt, [prompts, num_outcomes].

    Raises:
      ConfigError: the world has too many outcomes.
    """
    world.require_countable()
    table = np.zeros((len(world.prompts), world.num_outcomes))
    for row, prompt in enumerate(world.prompts):
        start = np.array([WORDS.index(word) for word in prompt.split()])
        column = 0
        for length in range(world.min_words, world.max_words + 1):
            words = np.indices((len(WORDS),) * length).reshape(length, -1).T
            texts = np.concatenate([np.tile(start, (len(words), 1)), words], axis=1)
            table[row, column : column + len(words)] = _rewards_of(texts)
            column += len(words)
    return table


def draw_corpus(world: World, num: int, seed: int, grammar: Grammar = MILD) -> list[Demonstration]:
    """`num` texts of a grammar: a random prompt, a random length, and words that follow one another plausibly."""
    chances = np.full((len(WORDS), len(WORDS)), _NOISE / len(WORDS))
    for word, following in grammar.items():
        total = sum(following.values())
        for after, weight in following.items():
            chances[WORDS.index(word), WORDS.index(after)] += (1 - _NOISE) * weight / total
    edges = chances.cumsum(axis=1)
    generator = np.random.default_rng(seed)
    prompts = generator.integers(len(world.prompts), size=num)
    lengths = generator.integers(world.min_words, world.max_words + 1, size=num)
    uniform = generator.random((num, world.max_words))
    corpus = []
    for prompt, length, row in zip(prompts.tolist(), lengths.tolist(), uniform, strict=True):
        text = world.prompts[prompt]
        words = [WORDS.index(text.split()[-1])]
        for u in row[:length]:
            words.append(min(int(np.searchsorted(edges[words[-1]], u)), len(WORDS) - 1))
        corpus.append(Demonstration(text, " ".join(WORDS[word] for word in words[1:])))
    return corpus


def _rewards_of(words_NL: Int[np.ndarray, "N L"]) -> Float[np.ndarray, " N"]:
    """Rewards of N texts of L words each, given as indices into WORDS."""
    polarity = np.array([POLARITY.get(word, 0.0) for word in WORDS])
    factor = np.array([FACTOR.get(word, 0.0) for word in WORDS])  # 0: no modifier
    total = np.zeros(len(words_NL))
    carried = np.ones(len(words_NL))
    for column in words_NL.T:
        total += carried * polarity[column]
        carried = np.where(factor[column] != 0, carried * factor[column], 1.0)
    return 1 / (1 + np.exp(-SHARPNESS * total))

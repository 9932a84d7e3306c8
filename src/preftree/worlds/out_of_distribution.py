"""Data out of distribution in the sentiment world: unseen prompts, and texts from another grammar.

The reward is the same everywhere, so the pairs show how far what a reward model or a policy has learned of it carries
over to texts unlike its own.
"""

from __future__ import annotations

from dataclasses import replace

from preftree.generate.hf import Generation
from preftree.worlds.grammar import MILD, Grammar, World, draw_corpus
from preftree.worlds.sentiment import Labeller, Pairs, label_samples

_BRIGHT = {"good": 24.0, "great": 22.0, "fun": 17.0, "bad": 13.0, "dull": 15.0, "awful": 9.0}

SHIFTED: Grammar = {
    "the": {"movie": 50.0, "plot": 50.0},
    "movie": {"was": 30.0, "not": 30.0, "very": 30.0, "the": 10.0},
    "plot": {"was": 30.0, "not": 30.0, "very": 30.0, "the": 10.0},
    "was": {"very": 60.0, "not": 90.0, **_BRIGHT},
    "very": {"very": 30.0, **_BRIGHT},
    "not": {"very": 70.0, "not": 20.0, **_BRIGHT},
    **{word: {"the": 10.0, "very": 30.0, "not": 60.0, **_BRIGHT} for word in _BRIGHT},
}
"""Bright where the world's own grammar is mildly negative, and full of `not` and `very`, which turn and strengthen."""

_UNSEEN = (
    "the plot was",
    "the plot was not",
    "the movie was very",
    "the movie was not very",
    "the movie was fun the",
    "the plot was dull the movie",
)


def unseen_prompts(world: World) -> tuple[str, ...]:
    """Prompts of the same language that the world does not ask."""
    return tuple(prompt for prompt in _UNSEEN if prompt not in world.prompts)


def shifted_pairs(
    world: World,
    num: int,
    labeller: Labeller,
    seed: int,
    *,
    prompts: bool = True,
    grammar: bool = True,
    responses: int = 4,
) -> Pairs:
    """Labelled pairs out of distribution: all pairs among `responses` texts to each of `num` drawn prompts.

    Args:
      world: World that gives the reward and the lengths.
      num: Prompts drawn, repeats included.
      labeller: Labeller of the pairs.
      seed: Seed of prompts, texts and labels.
      prompts: Ask what the world does not ask; else its own prompts.
      grammar: Draw responses from SHIFTED; else from the grammar that corpora are drawn from.
      responses: Number of responses to each prompt.
    """
    texts = unseen_prompts(world) if prompts else world.prompts
    rules = SHIFTED if grammar else MILD
    samples = []
    for number in range(num):
        prompt = texts[number % len(texts)]
        drawn = draw_corpus(replace(world, prompts=(prompt,)), responses, seed * 1_000_003 + number, rules)
        samples.append((prompt, [Generation(str(demonstration.response), (), None) for demonstration in drawn]))
    return label_samples(world, samples, labeller, seed)

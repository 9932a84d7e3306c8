"""What the demo does, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from preftree.worlds.sentiment import Labeller

RESPONSES_PER_PROMPT = 4
HELD_OUT_PROMPTS = 90
LABELLER = Labeller("bt", scale=10.0)
BEST_OF = (2, 3, 4, 8, 16, 32, 64, 128)
TEMPERATURES = (0.25, 0.5, 0.75, 1.0)
TEMPERED_BETA = 1.0
"""The beta whose policies are sampled at other temperatures."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train, at several betas.

    Attributes:
      name: As results.json has it.
      optimizer, lr, schedule: Of all its runs.
      betas: One run each; empty where the method has no beta (Preferred-FT).
    """

    name: str
    optimizer: str
    lr: float
    schedule: str
    betas: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything a demo does.

    Attributes:
      world: Name of a world.
      seeds: Everything is done once for each: corpus, model, samples, labels and training have the seed's own draws.
      texts: Texts of the corpus.
      prompts: Prompts that responses are drawn for and compared, four each.
      sft_steps: Steps of fine-tuning, of 64 texts.
      steps: Steps of each DPO run and of Preferred-FT.
      batch_size: Pairs of a step.
      snapshots: Factor between the steps at which a policy is measured.
      first: First step at which it is.
      methods: What is compared, all from the same fine-tuned model and the same pairs.
    """

    world: str
    seeds: tuple[int, ...]
    texts: int
    prompts: int
    sft_steps: int
    steps: int
    batch_size: int
    snapshots: float
    first: int
    methods: tuple[Method, ...]


def _methods(adamw: tuple[float, ...], rmsprop: tuple[float, ...]) -> tuple[Method, ...]:
    return (
        Method("dpo_adamw", "adamw", 3e-3, "cosine", adamw),
        Method("dpo_rmsprop", "rmsprop", 1e-3, "constant", rmsprop),
        Method("preferred_ft", "adamw", 3e-3, "cosine"),
    )


PLANS = {
    "fast": Plan("tiny", (0,), 2000, 400, 100, 80, 32, 2.0, 8, _methods((0.3, 1.0, 2.0, 5.0), (1.0,))),
    "demo": Plan("small", (0,), 8000, 1500, 300, 256, 32, 1.5, 8, _methods((0.6, 1.0, 2.0, 5.0), (1.0,))),
    "full": Plan(
        "small",
        (0, 1, 2),
        8000,
        3000,
        600,
        600,
        64,
        1.5,
        5,
        _methods((0.3, 0.5, 1.0, 2.0, 5.0), (0.3, 0.5, 1.0, 2.0, 5.0)),
    ),
}

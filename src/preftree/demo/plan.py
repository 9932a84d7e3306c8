"""Plans of the demo: worlds, sizes, seeds and methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from preftree.worlds.sentiment import Labeller

RESPONSES_PER_PROMPT = 4
HELD_OUT_PROMPTS = 90
LABELLER = Labeller("bt", scale=10.0)
BEST_OF = (2, 3, 4, 8, 16, 32, 64, 128)
TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0)
FARTHEST = 4.0
"""Nats of KL within which the setting that represents a method must end, if one of its settings does."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train, at several values of one option.

    Attributes:
      name: Name in results.json.
      recipe: Name of the recipe.
      option: The varied option.
      values: Values, one run each; empty for a single run.
      options: Options of all its runs.
      reward: The reward of responses drawn in training: the world's, or that of a reward model of the seed's pairs.
      knobs: Options that have to be chosen, for the table of costs.
    """

    name: str
    recipe: Literal["dpo", "sft", "ppo", "rloo"]
    option: str = ""
    values: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    reward: Literal["world", "model"] | None = None
    knobs: tuple[str, ...] = ("lr", "steps", "schedule")


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """Sizes and methods of a demo.

    Attributes:
      world: Name of a world.
      seeds: Everything is done once for each: corpus, model, samples, labels and training have the seed's own draws.
      texts: Texts of the corpus.
      prompts: Prompts that responses are drawn for and compared, four each.
      sft_steps: Steps of fine-tuning, of 64 texts.
      steps: Steps of a run on pairs.
      batch_size: Pairs of a step.
      snapshots: Factor between the steps at which a policy is measured.
      first: First step at which a policy is measured.
      methods: The methods, all from the same fine-tuned model and the same pairs.
      reward_steps: Steps of the reward model; 0 trains none.
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
    reward_steps: int = 0


_ADAMW = {"optimizer": "adamw", "lr": 3e-3, "schedule": "cosine"}
_RMSPROP = {"optimizer": "rmsprop", "lr": 1e-3, "schedule": "constant"}

_ONLINE = {
    "batch_size": 128,
    "minibatch_size": 128,
    "samples_per_prompt": 8,
    "generation_batch": 512,
    "max_steps": 100,
    "lr": 2e-3,
    "schedule": "cosine",
    "warmup_steps": 5,
    "snapshots": 1.25,
}
"""Options of PPO and RLOO, found by hand on two seeds."""

_ONLINE_KNOBS = ("lr", "kl_coef", "batch", "minibatch", "epochs", "iterations", "schedule")


def _dpo(betas: tuple[float, ...], rmsprop: tuple[float, ...]) -> tuple[Method, ...]:
    knobs = ("lr", "beta", "steps", "schedule")
    return (
        Method("dpo_adamw", "dpo", "beta", betas, _ADAMW, knobs=knobs),
        Method("dpo_rmsprop", "dpo", "beta", rmsprop, _RMSPROP, knobs=knobs),
        Method("preferred_ft", "sft", options={**_ADAMW, "side": "chosen"}),
    )


def _baselines() -> tuple[Method, ...]:
    """The methods that DPO replaces.

    A learned reward has the scale of its labels, ten times the world's, so its coefficients are larger; it has as many
    settings as DPO has betas, and they end as far apart.
    """
    four, two = {**_ONLINE, "ppo_epochs": 4}, {**_ONLINE, "ppo_epochs": 2}
    learned = (*_ONLINE_KNOBS, "lr and steps of the reward model")
    return (
        Method(
            "unlikelihood",
            "dpo",
            "loss.alpha",
            (0.3, 0.6, 1.0),
            {**_ADAMW, "loss": {"name": "unlikelihood"}},
            knobs=("lr", "alpha", "steps", "schedule"),
        ),
        Method("ppo", "ppo", "kl_coef", (0.1, 0.2, 0.5, 1.2, 2.0), four, "model", learned),
        Method("ppo_gt", "ppo", "kl_coef", (0.01, 0.05, 0.2), four, "world", _ONLINE_KNOBS),
        Method("rloo_gt", "rloo", "kl_coef", (0.01, 0.05, 0.2), two, "world", _ONLINE_KNOBS),
    )


PLANS = {
    "fast": DemoPlan("tiny", (0,), 2000, 400, 100, 80, 32, 2.0, 8, _dpo((0.3, 1.0, 2.0, 5.0), (1.0,))),
    "demo": DemoPlan("small", (0,), 8000, 1500, 300, 256, 32, 1.5, 8, _dpo((0.6, 1.0, 2.0, 5.0), (1.0,))),
    "full": DemoPlan(
        "small",
        (0, 1, 2),
        8000,
        3000,
        600,
        600,
        64,
        1.5,
        5,
        _dpo((0.3, 0.5, 1.0, 2.0, 5.0), (0.5, 1.0, 2.0)) + _baselines(),
        reward_steps=1200,
    ),
}

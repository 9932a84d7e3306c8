"""The recipes: a row for each verb that trains, with its options and what tells it from the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to train.

    Attributes:
      name: The verb, `preftree NAME`; every run's config.yaml holds it.
      options: Class of the options, `MODULE:CLASS`, imported when it is needed: it takes a tenth of a second to build,
        and most verbs need none.
      run: Entry point, `MODULE:FUNCTION`, a function from options to the outcome of the run.
      trains: The model that comes out: a policy, which writes texts, or a reward model, which scores them.
      reads: The rows of its data.
      deed: Words that join a model and its data or reward in a sentence: "gpt2, fine-tuned on corpus.jsonl".
      help: The recipe in one line.
    """

    name: str
    options: str
    run: str
    trains: Literal["policy", "reward_model"]
    reads: Literal["demonstrations", "preferences", "prompts"]
    deed: str
    help: str

    @property
    def config(self) -> type[Any]:
        """Class of the options; one of `config.load.AnyConfig`."""
        return _imported(self.options)

    @property
    def samples(self) -> bool:
        """Whether it trains on responses that its own policy samples, and not on those of a file."""
        return self.reads == "prompts"

    def load(self) -> Callable[..., Any]:
        """The function that runs it, from a configuration of class `config` to a `train.loop.Outcome`.

        Its second argument measures after training; None measures nothing.
        """
        return _imported(self.run)


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


RECIPES = {
    row.name: row
    for row in (
        Recipe(
            "sft",
            "preftree.config.sft:SftConfig",
            "preftree.train.sft:run_sft",
            "policy",
            "demonstrations",
            "fine-tuned on",
            "Fine-tune a model on demonstrations.",
        ),
        Recipe(
            "dpo",
            "preftree.config.dpo:DpoConfig",
            "preftree.train.dpo:run_dpo",
            "policy",
            "preferences",
            "optimised on",
            "Optimise a policy on preferences: DPO, IPO, KTO and every other loss of `preftree losses`.",
        ),
        Recipe(
            "reward",
            "preftree.config.reward:RewardConfig",
            "preftree.train.reward:run_reward",
            "reward_model",
            "preferences",
            "made a reward model from",
            "Train a reward model on preferences.",
        ),
        Recipe(
            "ppo",
            "preftree.config.online:PpoConfig",
            "preftree.train.ppo:run_ppo",
            "policy",
            "prompts",
            "optimised by PPO for",
            "Optimise a policy for a reward, with a critic.",
        ),
        Recipe(
            "rloo",
            "preftree.config.online:RlooConfig",
            "preftree.train.ppo:run_rloo",
            "policy",
            "prompts",
            "optimised by RLOO for",
            "Optimise a policy for a reward; the other responses to a prompt are the baseline.",
        ),
    )
}
"""The recipes by name."""

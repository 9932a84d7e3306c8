"""results.json of a demo, checked, and the names that its methods have on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from preftree.errors import DataError
from preftree.report.frontier import BudgetRow
from preftree.run_folder.measured_file import PairRewards, Point, Sample, Temperature

NAMES = {
    "dpo_adamw": "DPO (AdamW)",
    "dpo_rmsprop": "DPO (RMSprop)",
    "best_of_n": "Best of N",
    "preferred_ft": "Preferred-FT",
    "unlikelihood": "Unlikelihood",
    "ppo": "PPO (reward model)",
    "ppo_gt": "PPO (true reward)",
    "rloo_gt": "RLOO (true reward)",
    "fine_tuned": "the fine-tuned model",
}
"""Names of methods on the page, by their names in results.json; another name is shown as it is."""


def shown_name(method: str) -> str:
    """The name of a method on a page."""
    return NAMES.get(method, method)


class Cost(BaseModel):
    """Cost of a run of a method: means over its runs."""

    settings: int
    seconds: float
    reward_model_seconds: float
    seconds_to: dict[str, float | None]
    samples: float
    tokens: float
    models: int
    state: int
    knobs: list[str]


class InAndOut(BaseModel):
    """Accuracy of three sources of rewards on one kind of pairs, one seed; the learned ones with their intervals."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    pairs: str
    count: int
    true_reward: float
    dpo: tuple[float, float, float]
    reward_model: tuple[float, float, float]


class TextAndReward(BaseModel):
    """A response, and its reward where it is known."""

    text: str
    reward: float | None = None


class ResponsesOf(BaseModel):
    """A prompt and the responses to it, by model."""

    prompt: str
    responses: dict[str, TextAndReward]


class DemoResults(BaseModel):
    """Content of results.json; every part may be missing.

    Attributes:
      world: Name of the world, or figures with a `name` and a `start_reward`.
      optimum: The best reward of any policy at some KLs.
      methods: Measured policies of each method.
      budgets: The best rewards within KL budgets.
      costs: Costs by method.
      rewards: Accuracy of sources of rewards, in and out of distribution.
      temperature: Win rates over sampling temperatures.
      robustness: Area and drop of those curves, by policy.
      bandit: Total variation to a closed form, by loss and beta.
      seconds: CPU seconds by part.
      texts: Responses of several models.
      samples, token_rewards: As in measured.json.
      recommended: The setting to use, with its reason.
    """

    world: Any = "unnamed"
    optimum: list[Point] = []
    methods: dict[str, list[Point]] = {}
    budgets: list[BudgetRow] = []
    costs: dict[str, Cost] = {}
    rewards: list[InAndOut] = []
    temperature: tuple[Temperature, ...] = ()
    robustness: dict[str, dict[str, float]] = {}
    bandit: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    texts: list[ResponsesOf] = []
    samples: tuple[Sample, ...] = ()
    token_rewards: tuple[PairRewards, ...] = ()
    recommended: Any = None

    @property
    def facts(self) -> dict[str, Any]:
        """Figures of the world, its name among them."""
        return dict(self.world) if isinstance(self.world, Mapping) else {"name": self.world}

    def named_temperatures(self) -> tuple[Temperature, ...]:
        """Figures over sampling temperatures, with the names that people read."""
        return tuple(point.model_copy(update={"name": shown_name(point.name)}) for point in self.temperature)


def parse_results(results: Mapping[str, Any]) -> DemoResults:
    """The results, checked.

    Raises:
      DataError: a part of them has another form.
    """
    try:
        return DemoResults.model_validate(results)
    except ValidationError as error:
        fault = error.errors()[0]
        path = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"results: {path}: {fault['msg']}; it must be as results.json has it") from error

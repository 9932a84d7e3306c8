"""What a preference run minimises: one loss of the table, or a weighted sum of several on the same examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.config.base import RunConfig
from preftree.config.dpo import DpoConfig
from preftree.config.reward import RewardConfig
from preftree.errors import ConfigError
from preftree.losses.metrics import columns_of, list_metrics, pair_metrics, response_metrics
from preftree.losses.registry import BoundLoss, bind, find, needs_reference, options_of, unit_of
from preftree.losses.reward_model import bind_reward_loss
from preftree.losses.types import PairLogps

Unit = Literal["pair", "response", "list"]


@dataclass(frozen=True, slots=True)
class Part:
    """A loss of the sum, and what it is multiplied with."""

    loss: BoundLoss
    weight: float = 1.0


@dataclass(frozen=True)
class Objective:
    """A weighted sum of losses; the first that is not of demonstrations leads: the metrics are its own.

    Attributes:
      parts: The losses, no name twice.
    """

    parts: tuple[Part, ...]

    @cached_property
    def lead(self) -> BoundLoss:
        """The loss whose rewards, accuracy and margin are shown."""
        return next(part.loss for part in self.parts if unit_of(part.loss.spec) != "demonstration")

    @cached_property
    def unit(self) -> Unit:
        """What an example is."""
        unit = unit_of(self.lead.spec)
        assert unit != "demonstration"
        return unit

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """All that the losses and their metrics look at, but for the running state."""
        shown = {"pair": ("policy", "ref"), "response": (), "list": ()}[self.unit]
        names = [name for part in self.parts for name in part.loss.inputs]
        names += [name for name in shown if name != "ref" or needs_reference(self.lead.spec)]
        return tuple(name for name in dict.fromkeys(names) if name != "state")

    @property
    def needs_reference(self) -> bool:
        """Whether any part compares with a reference."""
        return any(needs_reference(part.loss.spec) for part in self.parts)

    @property
    def takes_ties(self) -> bool:
        """Whether all losses of examples know what a tie is; else one of them would take its first response's side."""
        units = [part.loss for part in self.parts if unit_of(part.loss.spec) != "demonstration"]
        return all("ties" in loss.inputs for loss in units)

    def check_ties(self) -> None:
        """Ask the losses that take ties whether there can be any.

        Raises:
          ConfigError: under its options, a tie would be impossible.
        """
        one, count = torch.zeros(1), torch.ones(1, dtype=torch.int64)
        pair = PairLogps(one, one, count, count)
        for part in self.parts:
            if "ties" in part.loss.inputs:
                given = {"policy": pair, "ref": pair, "ties": count.bool()}
                try:
                    part.loss(**{name: given[name] for name in part.loss.inputs})
                except ValueError as error:
                    raise ConfigError(f"loss {part.loss.name}: {error}") from error

    @property
    def scope(self) -> Literal["example", "step"]:
        """`step` where a value of any part depends on the whole step."""
        return "step" if any(part.loss.spec.scope == "step" for part in self.parts) else "example"

    @property
    def state(self) -> dict[str, float]:
        """The running state before the first step, as `loss.name`."""
        return {f"{p.loss.name}.{name}": value for p in self.parts for name, value in p.loss.spec.initial_state.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return (*columns_of(self.lead.spec), *self._own_columns)

    @property
    def _own_columns(self) -> list[str]:
        return [f"loss/{part.loss.name}" for part in self.parts] if len(self.parts) > 1 else []

    @property
    def label(self) -> str:
        """The sum in a word or a line."""
        if len(self.parts) == 1 and self.parts[0].weight == 1:
            return self.parts[0].loss.name
        return " + ".join(f"{part.weight:g} {part.loss.name}" for part in self.parts)

    @property
    def identity(self) -> dict[str, float | str]:
        """What tells this objective from others, by name: a run can go on only under the same."""
        if len(self.parts) == 1:
            return {"loss": self.label, **self.lead.options}
        options = {f"{p.loss.name}.{name}": value for p in self.parts for name, value in p.loss.options.items()}
        return {"loss": self.label, **options}

    def value(
        self, given: Mapping[str, Any], state: Mapping[str, float]
    ) -> tuple[Float[Tensor, " P"], dict[str, Tensor]]:
        """The weighted sum of each example, and its metrics.

        Args:
          given: The inputs of all losses by name.
          state: The running state, as `self.state` names it.
        """
        values = {part.loss.name: part.loss(**_own(part.loss, given, state)) for part in self.parts}
        total = sum(part.weight * values[part.loss.name] for part in self.parts)
        assert isinstance(total, Tensor)
        metrics = {"pair": pair_metrics, "response": response_metrics, "list": list_metrics}[self.unit]
        columns = metrics(self.lead, dict(given) | {"state": _state_of(self.lead, state)})
        columns["loss"] = total.detach()
        for name in self._own_columns:
            columns[name] = values[name.removeprefix("loss/")].detach()
        return total, columns

    def advance(self, given: Mapping[str, Any], state: Mapping[str, float]) -> dict[str, float]:
        """The running state after a step, from the inputs of all its examples."""
        after = dict(state)
        for part in self.parts:
            if part.loss.spec.advance is not None:
                new = part.loss.advance(**_own(part.loss, given, state))
                after |= {f"{part.loss.name}.{name}": float(value) for name, value in new.items()}
        return after


def _own(loss: BoundLoss, given: Mapping[str, Any], state: Mapping[str, float]) -> dict[str, Any]:
    return {name: _state_of(loss, state) if name == "state" else given[name] for name in loss.inputs}


def _state_of(loss: BoundLoss, state: Mapping[str, float]) -> dict[str, float]:
    return {name: state[f"{loss.name}.{name}"] for name in loss.spec.initial_state}


def bind_objective(config: DpoConfig) -> tuple[DpoConfig, Objective]:
    """The losses that the options name; the options with the beta and the reference that they use.

    Raises:
      ConfigError: no such loss; an option that it does not take, lacks, or that is out of its range; losses that are
        not of the same kind of example; a reference where none is needed, or none where one is.
    """
    given = config.losses
    try:
        takes_beta = [part.name for part, _ in given if "beta" in options_of(find(part.name))]
        if config.beta is not None and len(takes_beta) > 1:
            raise ConfigError(
                f"beta={config.beta:g} may mean that of {' or of '.join(takes_beta)}; set "
                + " and ".join(f"loss.{name}.beta" for name in takes_beta)
            )
        parts = []
        for part, weight in given:
            options = part.options
            if config.beta is not None and (part.name in takes_beta or not takes_beta):
                options = options | {"beta": config.beta}
            parts.append(Part(bind(part.name, options), weight))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    names = [part.loss.name for part in parts]
    if len(set(names)) < len(names):
        raise ConfigError(f"a sum of losses names each once, got {max(names, key=names.count)!r} twice")
    objective = Objective(tuple(parts))
    _check_units(objective)
    if not objective.needs_reference and (config.reference_schedule or config.reference not in ("start", "none")):
        got = "a schedule for it" if config.reference_schedule else f"reference={config.reference}"
        raise ConfigError(f"loss {objective.label} compares with no reference, got {got}; leave it out")
    if objective.needs_reference and config.reference_place == "none":
        raise ConfigError(
            f"loss {objective.label} compares with a reference, got reference=none; give 'start' or the path of a model"
        )
    betas = [part.loss.options["beta"] for part in parts if "beta" in part.loss.options]
    settled = {
        "beta": betas[0] if len(betas) == 1 else None,
        "reference": config.reference if objective.needs_reference else "none",
    }
    return config.model_copy(update=settled), objective


def bind_reward(config: RewardConfig) -> Objective:
    """The loss of a reward model that the options name.

    Raises:
      ConfigError: no such loss, or an option that it does not take, or that is out of its range.
    """
    try:
        return Objective((Part(bind_reward_loss(config.loss.name, config.loss.options)),))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def objective_of(config: RunConfig) -> Objective | None:
    """What a run on preferences minimises; None for a run on anything else.

    Raises:
      ConfigError: as `bind_objective` and `bind_reward`.
    """
    if isinstance(config, RewardConfig):
        return bind_reward(config)
    return bind_objective(config)[1] if isinstance(config, DpoConfig) else None


def _check_units(objective: Objective) -> None:
    units = {part.loss.name: unit_of(part.loss.spec) for part in objective.parts}
    kinds = set(units.values()) - {"demonstration"}
    if not kinds:
        raise ConfigError("loss 'sft' alone has nothing to prefer; use `preftree sft` with side=chosen, or mix it")
    if len(kinds) > 1 or ("response" in kinds and "demonstration" in units.values()):
        told = ", ".join(f"{name} is of {unit}s" for name, unit in units.items())
        raise ConfigError(f"losses that are summed must be of the same kind of example: {told}; choose one kind")

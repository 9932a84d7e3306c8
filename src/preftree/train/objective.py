"""Objective of a preference run: one loss, or a weighted sum of several on the same examples."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.config.base import RunConfig
from preftree.config.dpo import DpoConfig
from preftree.config.recipes import RECIPES
from preftree.config.reward import RewardConfig
from preftree.errors import ConfigError, TrainingError
from preftree.losses.curve import example_inputs
from preftree.losses.metrics import columns_of, metrics_of, with_gradient
from preftree.losses.registry import LOSSES, REWARD_LOSSES, bind, name_of, spec_of
from preftree.losses.types import BoundLoss, LossSpec
from preftree.records import Kind
from preftree.runtime.user_code import boundary, is_place, load_function


@dataclass(frozen=True, slots=True)
class WeightedLoss:
    """One loss of the sum, with its weight."""

    loss: BoundLoss
    weight: float = 1.0


@dataclass(frozen=True)
class Objective:
    """A weighted sum of losses; the metrics are those of the first loss that is not of demonstrations.

    Attributes:
      parts: The losses, each with a different name.
    """

    parts: tuple[WeightedLoss, ...]

    @cached_property
    def lead(self) -> BoundLoss:
        """The loss that defines rewards, accuracy and margin."""
        return next(part.loss for part in self.parts if part.loss.spec.kind != "demonstration")

    @cached_property
    def kind(self) -> Kind:
        """Kind of the examples."""
        return self.lead.spec.kind

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """All inputs of the losses and their metrics, except the running state."""
        names = [name for part in self.parts for name in part.loss.inputs]
        if self.kind == "pair" and not self.lead.spec.is_of_rewards:
            names += ["policy", "ref"] if self.lead.spec.needs_reference else ["policy"]
        return tuple(name for name in dict.fromkeys(names) if name != "state")

    @property
    def needs_reference(self) -> bool:
        """Whether any part needs a reference."""
        return any(part.loss.spec.needs_reference for part in self.parts)

    @property
    def required(self) -> set[str]:
        """Inputs that every row of the data must have."""
        return {name for part in self.parts for name in part.loss.inputs if name not in part.loss.spec.optional}

    @property
    def takes_ties(self) -> bool:
        """Whether all losses of pairs read ties; a loss that does not would prefer the first response."""
        losses = [part.loss for part in self.parts if part.loss.spec.kind != "demonstration"]
        return all("ties" in loss.inputs for loss in losses)

    def check_ties(self) -> None:
        """Evaluate the losses that take ties on artificial ties.

        Raises:
          ConfigError: a tie is impossible under a loss's options.
        """
        inputs = example_inputs()
        inputs["ties"] = ~inputs["ties"]
        for part in self.parts:
            if "ties" in part.loss.inputs:
                try:
                    part.loss(**{name: inputs[name] for name in part.loss.inputs})
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
        return (*columns_of(self.lead.spec), *self._columns_of_parts)

    @property
    def _columns_of_parts(self) -> list[str]:
        return [f"loss/{part.loss.name}" for part in self.parts] if len(self.parts) > 1 else []

    @property
    def label(self) -> str:
        """Name of the objective for messages."""
        if len(self.parts) == 1 and self.parts[0].weight == 1:
            return self.parts[0].loss.name
        return " + ".join(f"{part.weight:g} {part.loss.name}" for part in self.parts)

    @property
    def identity(self) -> dict[str, float | str]:
        """Losses, weights and options by name; a run can resume only with an equal identity."""
        if len(self.parts) == 1:
            identity = {"loss": self.label, **self.lead.options}
        else:
            options = {f"{p.loss.name}.{name}": value for p in self.parts for name, value in p.loss.options.items()}
            identity = {"loss": self.label, **options}
        files = {f"file of {p.loss.name}": p.loss.spec.file_hash for p in self.parts if p.loss.spec.file_hash}
        return identity | files

    def value(
        self, inputs: Mapping[str, Any], state: Mapping[str, float]
    ) -> tuple[Float[Tensor, " P"], dict[str, Tensor]]:
        """Weighted sum of the losses of each example, and its metrics, from one evaluation of each loss.

        Args:
          inputs: The inputs of all losses by name.
          state: The running state, as `self.state` names it.
        """
        tracked = with_gradient(self.lead, inputs)
        of_user = [part.loss.name for part in self.parts if part.loss.spec.file_hash]
        guard = boundary(f"loss {of_user[0]!r}", TrainingError, "; fix the function") if of_user else nullcontext()
        with guard, torch.inference_mode(False), torch.enable_grad():
            values = {
                part.loss.name: part.loss.function(**_inputs_of(part.loss, tracked, state)) for part in self.parts
            }
            total = sum(part.weight * values[part.loss.name] for part in self.parts)
            assert isinstance(total, Tensor)
            columns = metrics_of(self.lead, {**tracked, "state": _state_of(self.lead, state)}, values[self.lead.name])
        columns["loss"] = total.detach()
        for name in self._columns_of_parts:
            columns[name] = values[name.removeprefix("loss/")].detach()
        return (total if tracked is inputs else total.detach()), columns

    def advance(self, inputs: Mapping[str, Any], state: Mapping[str, float]) -> dict[str, float]:
        """The running state after a step, from the inputs of all its examples."""
        after = dict(state)
        for part in self.parts:
            if part.loss.spec.advance is not None:
                new = part.loss.advance(**_inputs_of(part.loss, inputs, state))
                after |= {f"{part.loss.name}.{name}": float(value) for name, value in new.items()}
        return after


def _inputs_of(loss: BoundLoss, inputs: Mapping[str, Any], state: Mapping[str, float]) -> dict[str, Any]:
    return {name: _state_of(loss, state) if name == "state" else inputs[name] for name in loss.inputs}


def _state_of(loss: BoundLoss, state: Mapping[str, float]) -> dict[str, float]:
    return {name: state[f"{loss.name}.{name}"] for name in loss.spec.initial_state}


def bind_objective(config: DpoConfig) -> tuple[DpoConfig, Objective]:
    """The options with their beta and reference filled in, and the losses that they name.

    Raises:
      ConfigError: no such loss; an option that it does not take, lacks, or that is out of its range; losses of
        different kinds of examples; a reference where none is needed, or no reference where one is needed.
    """
    named = [_look_up(choice.name) for choice, _ in config.losses]
    takes_beta = [
        choice.name
        for (choice, _), (name, losses) in zip(config.losses, named, strict=True)
        if "beta" in losses[name].options
    ]
    if config.beta is not None and len(takes_beta) > 1:
        raise ConfigError(
            f"beta={config.beta:g} may mean that of {' or of '.join(takes_beta)}; set "
            + " and ".join(f"loss.{name}.beta" for name in takes_beta)
        )
    parts = []
    for (choice, weight), (name, losses) in zip(config.losses, named, strict=True):
        options = choice.options
        if config.beta is not None and (choice.name in takes_beta or not takes_beta):
            options = options | {"beta": config.beta}
        parts.append(WeightedLoss(_bind(name, options, losses), weight))
    names = [part.loss.name for part in parts]
    if len(set(names)) < len(names):
        raise ConfigError(f"a sum of losses names each once, got {max(names, key=names.count)!r} twice")
    objective = Objective(tuple(parts))
    _check_kinds(objective)
    if not objective.needs_reference and (config.reference_schedule or config.reference not in ("start", "none")):
        got = "a schedule for it" if config.reference_schedule else f"reference={config.reference}"
        raise ConfigError(f"loss {objective.label} uses no reference, got {got}; leave it out")
    if objective.needs_reference and config.reference_place == "none":
        raise ConfigError(
            f"loss {objective.label} needs a reference, got reference=none; give 'start' or the path of a model"
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
    return Objective((WeightedLoss(bind_loss(config.loss.name, config.loss.options, of_rewards=True)),))


def bind_loss(name: str, options: Mapping[str, object] = {}, *, of_rewards: bool = False) -> BoundLoss:
    """A loss with checked options, by its name or as a user's function, FILE.py:FUNCTION.

    Args:
      name: Key of the table, TRL's name of a loss, or FILE.py:FUNCTION.
      options: Raw option values; the others take their defaults.
      of_rewards: Whether it trains a reward model, not a policy.
    Raises:
      ConfigError: no such loss; an option that it does not take, or that is out of its range; a user's function that
        cannot be loaded, or is not a loss.
    """
    name, losses = _look_up(name, of_rewards=of_rewards)
    return _bind(name, options, losses)


def _look_up(name: str, *, of_rewards: bool = False) -> tuple[str, Mapping[str, LossSpec]]:
    """The key of a loss, and its table; a user's function has a table of one row."""
    if is_place(name):
        function, file_hash = load_function(name, f"loss {name!r}")
        with boundary(f"the signature of loss {name!r}", ConfigError):  # annotations are the user's code
            try:
                return name, {name: spec_of(function, file_hash, of_rewards=of_rewards)}
            except (ValueError, TypeError, NameError) as error:
                raise ConfigError(f"loss {name!r}: {error}") from error
    losses = REWARD_LOSSES if of_rewards else LOSSES
    try:
        return name_of(name, losses), losses
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _bind(name: str, options: Mapping[str, object], losses: Mapping[str, LossSpec]) -> BoundLoss:
    try:
        loss = bind(name, options, losses)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if loss.spec.file_hash:
        inputs = example_inputs()
        where = f" on two made-up {loss.spec.kind}s; fix the function"
        with boundary(f"loss {name!r}", ConfigError, where):  # before a model is loaded
            loss(**{name: inputs[name] for name in loss.inputs})
    return loss


def objective_of(config: RunConfig) -> Objective | None:
    """The objective of a run on preferences; None for one on demonstrations.

    Raises:
      ConfigError: as `bind_objective` and `bind_reward`.
      ValueError: the recipe reads neither.
    """
    recipe = RECIPES[config.recipe]
    if recipe.reads == "demonstrations":
        return None
    if isinstance(config, RewardConfig):
        return bind_reward(config)
    if isinstance(config, DpoConfig):
        return bind_objective(config)[1]
    raise ValueError(f"runs of {recipe.name} read {recipe.reads}, and have no objective on examples")


def _check_kinds(objective: Objective) -> None:
    kinds = {part.loss.name: part.loss.spec.kind for part in objective.parts}
    of_examples = set(kinds.values()) - {"demonstration"}
    if not of_examples:
        raise ConfigError("loss 'sft' alone has nothing to prefer; use `preftree sft` with side=chosen, or mix it")
    if len(of_examples) > 1 or ("response" in of_examples and "demonstration" in kinds.values()):
        listing = ", ".join(f"{name} is of {kind}s" for name, kind in kinds.items())
        raise ConfigError(f"losses that are summed must be of the same kind of example: {listing}; choose one kind")

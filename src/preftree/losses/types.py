"""Types of losses: their inputs, the registry's row for a loss, and a loss with its options set.

A loss names its inputs before the `*` of its signature. The caller (train/) reads the names and provides only those, so
no reference is computed for a loss without one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from preftree.errors import ConfigError
from preftree.losses.options import Option, options_in
from preftree.records import FIGURES, Kind


class PairSums(NamedTuple):
    """Figures of the responses of P pairs under one model: summed log-probs, nats, or rewards.

    Attributes:
      chosen: log pi(y_w given x), nats, or the reward of y_w, [P].
      rejected: The same for y_l, [P].
      chosen_tokens: Scored tokens of each chosen response, [P].
      rejected_tokens: Scored tokens of each rejected response, [P].
    """

    chosen: Float[Tensor, " P"]
    rejected: Float[Tensor, " P"]
    chosen_tokens: Int[Tensor, " P"]
    rejected_tokens: Int[Tensor, " P"]


class PairValues(NamedTuple):
    """One value for the chosen and one for the rejected response of each pair, [P]."""

    chosen: Float[Tensor, " P"]
    rejected: Float[Tensor, " P"]


class TokenLogps(NamedTuple):
    """Log-probs of single tokens of N responses, response after response.

    Attributes:
      logps: Log-prob of each token, nats, [I].
      num_tokens: Tokens of each response, [N]; they sum to I.
    """

    logps: Float[Tensor, " I"]
    num_tokens: Int[Tensor, " N"]


class PairTokens(NamedTuple):
    """Token log-probs of both sides of P pairs."""

    chosen: TokenLogps
    rejected: TokenLogps


class ResponseSums(NamedTuple):
    """Sums over the scored tokens of N single responses.

    Attributes:
      values: Summed log-prob of each response, nats, or another sum of token values, such as its reward, [N].
      num_tokens: Scored tokens of each response, [N].
    """

    values: Float[Tensor, " N"]
    num_tokens: Int[Tensor, " N"]


class ListSums(NamedTuple):
    """Sums over the scored tokens of the responses of L lists, list after list, best response first.

    Attributes:
      values: log pi(y given x), nats, or the reward of y, [R].
      num_tokens: Scored tokens of each response, [R].
      sizes: Responses of each list, at least 2, [L]; they sum to R.
    """

    values: Float[Tensor, " R"]
    num_tokens: Int[Tensor, " R"]
    sizes: Int[Tensor, " L"]


_MODEL_INPUTS: Mapping[Kind, dict[str, str]] = {
    "pair": {
        "policy": "PairSums under the policy; carries gradient",
        "ref": "PairSums under the reference",
        "policy_tokens": "PairTokens under the policy; carries gradient",
        "ref_tokens": "PairTokens under the reference",
        "kl": "PairValues: KL(reference || policy) over the vocabulary, summed over tokens; carries gradient",
        "confidence": "PairValues: mean over tokens of log p(token) - log sum_v p(v)^2 under the policy, detached",
        "ties": "whether neither response of the pair is preferred, [P]",
        "rewards": "PairSums: rewards of each pair, of a reward model that is trained; carries gradient",
    },
    "response": {
        "responses": "ResponseSums under the policy; carries gradient",
        "ref_responses": "ResponseSums of the same under the reference",
        "desirable": "whether each response was liked, [N]",
        "mismatched": "ResponseSums of responses to the prompts of other examples under the policy, detached",
        "ref_mismatched": "ResponseSums of the same under the reference",
    },
    "list": {
        "policy_lists": "ListSums under the policy; carries gradient",
        "ref_lists": "ListSums under the reference",
        "list_rewards": "ListSums: rewards of the responses, of a reward model that is trained; carries gradient",
    },
    "demonstration": {"logps": "summed log-probs of demonstrations under the policy, nats, [N]; carries gradient"},
}
"""Inputs from scores of models and labels of the data, by kind of example."""

INPUTS: Mapping[Kind, Mapping[str, str]] = {
    kind: names | {figure.input: figure.meaning for figure in FIGURES.values() if kind in figure.kinds}
    for kind, names in _MODEL_INPUTS.items()
}
"""All inputs that a loss may name, by kind of example, including the figures of the data."""

INPUTS_OF_ANY_KIND: Mapping[str, str] = {
    "uniforms": "random numbers in [0, 1), a pure function of (seed, step, example), one an example",
    "state": "running state by name, scalars, as it was before this step",
}
"""Inputs that a loss of any kind may name."""


@dataclass(frozen=True, slots=True)
class LossSpec:
    """A row of the registry.

    Attributes:
      function: Inputs before the `*`, options after it; returns one value per example, [P].
      value_at_reference: The loss where policy == reference, or a function of the loss's options; None, or returning
        None: no fixed value.
      implicit_reward: Detached rewards of the responses, called with the loss's inputs and options by name: PairValues
        of pairs, [N] of single responses, [R] of lists; None: the loss implies none.
      scope: `example` where a value depends on its example alone; `step` where it needs the whole optimiser step.
      trl: TRL's names of the loss.
      initial_state: Running state before the first step, by name.
      advance: The state after a step, from the step's inputs (including the state) and options, by name; pure and
        detached. The loss function always receives the state before the step.
      file_hash: SHA-256 of the file of a user's loss; empty for the losses of this package.
      optional: Inputs of the data that a row may lack; it then has the neutral value of `records.FIGURES`.
    """

    function: Callable[..., Tensor]
    value_at_reference: float | Callable[..., float | None] | None
    implicit_reward: Callable[..., Any] | None
    scope: Literal["example", "step"] = "example"
    trl: tuple[str, ...] = ()
    initial_state: Mapping[str, float] = field(default_factory=dict)
    advance: Callable[..., dict[str, float]] | None = None
    file_hash: str = ""
    optional: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order: the parameters before the `*`."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)

    @property
    def options(self) -> dict[str, Option]:
        """The options, with their ranges and defaults: the parameters after the `*`."""
        return options_in(self.function)

    @property
    def kind(self) -> Kind:
        """The kind of example with one value each, from the inputs."""
        return next(kind for kind, names in INPUTS.items() if not names.keys().isdisjoint(self.inputs))

    @property
    def is_of_rewards(self) -> bool:
        """Whether it trains a reward model, not a policy."""
        return not {"rewards", "list_rewards"}.isdisjoint(self.inputs)

    @property
    def needs_reference(self) -> bool:
        """Whether it needs a reference: its log-probs, or the KL divergence from it."""
        return any(name == "kl" or name.startswith("ref") for name in self.inputs)

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def source(self) -> str:
        """Origin of the formula: the end of its docstring."""
        match = re.search(r"^Source: (.*)\Z", inspect.getdoc(self.function) or "", re.DOTALL | re.MULTILINE)
        return " ".join(match[1].split()) if match else ""


@dataclass(frozen=True, slots=True)
class BoundLoss:
    """A loss with its options set; call it with the inputs it names.

    Attributes:
      name: Its name in the table, or FILE.py:FUNCTION.
      spec: Its row.
      options: Values of all applicable options, checked.
      function: The loss as a function of its inputs alone.
    """

    name: str
    spec: LossSpec
    options: Mapping[str, float | str]
    function: Callable[..., Float[Tensor, " P"]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        function = partial(inspect.unwrap(self.spec.function), **self.options)  # the options are checked
        object.__setattr__(self, "function", _with_checked_shape(self, function) if self.spec.file_hash else function)

    def __call__(self, *inputs: Any, **named: Any) -> Float[Tensor, " P"]:
        """One value per example, [P], from the inputs in `self.inputs`, by position or by name."""
        return self.function(*inputs, **named)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs, in order."""
        return self.spec.inputs

    @property
    def value_at_reference(self) -> float | None:
        """The loss of an example with equal policy and reference; None: no fixed value."""
        known = self.spec.value_at_reference
        return known(**self.options) if callable(known) else known

    def advance(self, **named: Any) -> dict[str, float]:
        """The running state after a step; the loss's inputs by name, `state` as it was before the step.

        Raises:
          ValueError: the loss keeps no state.
        """
        if self.spec.advance is None:
            raise ValueError(f"loss {self.name!r} keeps no running state")
        return self.spec.advance(**named, **self.options)


def _with_checked_shape(loss: BoundLoss, function: Callable[..., Any]) -> Callable[..., Tensor]:
    """The function of a user's loss, checked to return one value per example."""

    def values_of(*inputs: Any, **named: Any) -> Tensor:
        values = function(*inputs, **named)
        first = dict(zip(loss.inputs, inputs, strict=False)) | named
        wanted = (_num_examples(first[loss.inputs[0]]),)
        if not isinstance(values, Tensor) or values.shape != wanted:
            got = f"shape {list(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
            raise ConfigError(
                f"loss {loss.name!r} must return one value per {loss.spec.kind}, a tensor of shape {list(wanted)}, "
                f"got {got}"
            )
        return values

    return values_of


def _num_examples(value: Any) -> int:
    if isinstance(value, PairTokens):
        return len(value.chosen.num_tokens)
    return len(value.sizes if isinstance(value, ListSums) else value[0] if isinstance(value, tuple) else value)

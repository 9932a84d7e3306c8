"""Registry of losses by name, and binding of a name with raw options to a function of its inputs.

A loss is a plain function: inputs before the `*`, options after it. Its needs, options and source are read from its
signature and its docstring; the row in its family's SPECS holds everything else.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_type_hints

from preftree.losses import lists, reward_model, unpaired
from preftree.losses.options import Choice, Range, check_options
from preftree.losses.pair import (
    anchored,
    divergence,
    logistic,
    margin,
    offsets,
    squared,
    stepwise,
    ties,
    token,
    unreferenced,
)
from preftree.losses.quantities import scaled_logps, scaled_logratios
from preftree.losses.sft import SPECS as SFT_SPECS
from preftree.losses.types import INPUTS, BoundLoss, LossSpec
from preftree.records import FIGURES, Kind

LOSSES: dict[str, LossSpec] = {
    **logistic.SPECS,
    **margin.SPECS,
    **squared.SPECS,
    **anchored.SPECS,
    **offsets.SPECS,
    **divergence.SPECS,
    **token.SPECS,
    **ties.SPECS,
    **stepwise.SPECS,
    **unreferenced.SPECS,
    **unpaired.SPECS,
    **lists.SPECS,
    **SFT_SPECS,
}
"""Losses of a policy by name, family after family."""

REWARD_LOSSES: dict[str, LossSpec] = reward_model.SPECS
"""Losses of a reward model by name."""

ELSEWHERE = {
    "tr_dpo": "'tr_dpo' is dpo with a reference that follows the policy: set loss=dpo and reference.sync_every",
    "step_dpo": "'step_dpo' is dpo on single steps of a solution: set loss=dpo and give pairs whose prompt holds the "
    "right steps so far, and whose responses are the next step, right and wrong",
}
"""Methods that are not losses, with the options that provide them."""


def name_of(name: str, losses: Mapping[str, LossSpec] = LOSSES) -> str:
    """The name of a loss in the table, from this name or TRL's.

    Args:
      name: A key of the table, or TRL's name for one.
      losses: LOSSES or REWARD_LOSSES.
    Raises:
      ValueError: no loss has this name; the message names the nearest loss, or the option for the method.
    """
    if name in losses:
        return name
    if losses is LOSSES and name in ELSEWHERE:
        raise ValueError(ELSEWHERE[name])
    aliases = {alias: row for row, spec in losses.items() for alias in spec.trl}
    if name not in aliases:
        close = difflib.get_close_matches(name, [*losses, *aliases], 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        subject = "loss" if losses is LOSSES else "the loss of a reward model"
        raise ValueError(f"{subject} must be one of {', '.join(losses)}, got {name!r}{hint}")
    return aliases[name]


def find(name: str) -> LossSpec:
    """The row of a policy's loss, by its name or by TRL's.

    Raises:
      ValueError: as `name_of`.
    """
    return LOSSES[name_of(name)]


def bind(name: str, options: Mapping[str, object], losses: Mapping[str, LossSpec] = LOSSES) -> BoundLoss:
    """A loss by name, with its options checked against its signature.

    Args:
      name: A key of the table, or TRL's name for one.
      options: Raw option values of a configuration; missing ones take the default of the signature.
      losses: LOSSES or REWARD_LOSSES.
    Raises:
      ValueError: unknown loss; an option that the loss does not take, or that is not allowed.
    """
    name = name_of(name, losses)
    known = losses[name].options
    for option in options:
        if option not in known:
            listing = ", ".join(f"{key} ({value.allowed})" for key, value in known.items()) or "none"
            close = difflib.get_close_matches(option, known, 1)
            others = [other for other, spec in losses.items() if option in spec.options]
            hint = f"; did you mean {close[0]!r}?" if close else ""
            hint += f"; losses that take it: {', '.join(others)}" if others else ""
            hint += "; a sum of losses is written whole, as loss={dpo: 1, sft: 0.2}" if option in losses else ""
            raise ValueError(f"loss {name!r} does not take {option!r}, its options are: {listing}{hint}")
    return BoundLoss(name, losses[name], check_options(known, options))


def spec_of(function: Callable[..., Any], file_hash: str, *, of_rewards: bool = False) -> LossSpec:
    """The row of a user's function: one value per example, from this example alone.

    Its rewards are beta * logratio, or beta * logps (per token, in lists) without a reference; beta is 1 if the
    function has none.

    Args:
      function: Inputs before the `*`, options after it, each with an option type and a default.
      file_hash: SHA-256 of its file.
      of_rewards: Whether it is for a reward model, not for a policy.
    Raises:
      ValueError: the signature is not that of a loss.
    """
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters):
        raise ValueError("its signature must name inputs before a `*` and options after it, got other parameters")
    kind = _kind_of_inputs([p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD], of_rewards=of_rewards)
    hints = get_type_hints(function, include_extras=True)
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            allowed, *_ = getattr(hints.get(parameter.name), "__metadata__", (None,))
            if not isinstance(allowed, Range | Choice) or parameter.default is parameter.empty:
                name = parameter.name
                raise ValueError(
                    f"option {name!r} needs a type of preftree.losses.options and a default, such as "
                    f"`{name}: Positive = 1.0`"
                )
            allowed.check(parameter.name, parameter.default)
    row = LossSpec(function, None, None, file_hash=file_hash)
    return replace(row, implicit_reward=_reward_of(kind, of_rewards=of_rewards, has_reference=row.needs_reference))


_OF_REWARDS = {"rewards", "list_rewards"}
_OF_DATA = {"ties", *(figure.input for figure in FIGURES.values())}
_NEEDED: Mapping[Kind, tuple[set[str], ...]] = {
    "pair": ({"policy"}, {"policy_tokens"}, {"rewards"}),
    "response": ({"responses", "ref_responses", "desirable"},),
    "list": ({"policy_lists"}, {"list_rewards"}),
    "demonstration": ({"logps"},),
}
"""Sets of inputs by kind, one of which a user's loss has to name, since gradient and metrics are based on them."""


def _kind_of_inputs(inputs: list[str], *, of_rewards: bool) -> Kind:
    known: dict[str, Kind] = {
        name: kind
        for kind, names in INPUTS.items()
        for name in names
        if name in _OF_DATA or of_rewards == (name in _OF_REWARDS)
    }
    for name in inputs:
        if name not in known and name != "uniforms":
            model = "a reward model" if of_rewards else "a policy"
            raise ValueError(f"{name!r} is no input of a loss of {model}; inputs are {', '.join(known)}, uniforms")
    kinds: set[Kind] = {known[name] for name in inputs if name in known}
    if len(kinds) > 1:
        raise ValueError(
            f"its inputs are of {' and of '.join(f'{kind}s' for kind in sorted(kinds))}; name those of one kind"
        )
    for kind in kinds:
        needed = [names for names in _NEEDED[kind] if names <= known.keys()]
        if any(names <= set(inputs) for names in needed):
            return kind
        raise ValueError(f"a loss of {kind}s must take {' or '.join(', '.join(sorted(names)) for names in needed)}")
    raise ValueError("it takes no inputs; the first is usually `policy`")


def _reward_of(kind: Kind, *, of_rewards: bool, has_reference: bool) -> Callable[..., Any] | None:
    if kind == "pair":
        return reward_model.rewards_of_pairs if of_rewards else scaled_logratios if has_reference else scaled_logps
    if kind == "list":
        plain = lists.scaled_list_logratios if has_reference else lists.mean_list_logps
        return reward_model.rewards_of_lists if of_rewards else plain
    return unpaired.response_rewards if kind == "response" else None

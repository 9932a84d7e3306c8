"""A weighted sum of losses as plain options: `{dpo: 1.0, sft: 0.2}`, or a list of `{name, weight, ...}`."""

from __future__ import annotations

from typing import Any

from preftree.errors import ConfigError

HIDDEN = "-"
"""Begins a word that stands in the place of an option in pydantic's errors, and is not shown."""


def is_mixture(value: object) -> bool:
    """Whether `loss` is a sum: a list, or a mapping from names to weights."""
    return isinstance(value, list) or (isinstance(value, dict) and bool(value) and "name" not in value)


def listed(value: object) -> object:
    """A sum as a list of its parts, each `{name, weight, ...}`.

    Raises:
      ValueError: a part is no mapping, or a name comes twice.
    """
    if isinstance(value, dict):
        return [{"name": name, "weight": weight} for name, weight in value.items()]
    assert isinstance(value, list)
    names = [part.get("name") if isinstance(part, dict) else None for part in value]
    for part, name in zip(value, names, strict=True):
        if not isinstance(part, dict):
            raise ValueError(f"a sum of losses is a list of {{name: ..., weight: ...}}, got the part {part!r}")
        if names.count(name) > 1:
            raise ValueError(f"a sum of losses names each once, got {name!r} twice; add up their weights")
    return value


def set_in_mixture(value: object, inner: list[str], new: object, option: str) -> object:
    """The sum with one more setting: `loss.sft=.2` is a weight, `loss.dpo.beta=.1` an option of a part.

    Args:
      value: The sum as it is.
      inner: The dotted name without its first word.
      new: What to set.
      option: The whole name, for errors.
    Raises:
      ConfigError: the sum has no part of that name, or parts have no such inner options.
    """
    try:
        parts: list[dict[str, Any]] = [dict(part) for part in listed(value)]  # pyright: ignore[reportGeneralTypeIssues] - checked by listed
    except ValueError as error:
        raise ConfigError(f"loss: {error}") from error
    name, *rest = inner
    known = {str(part.get("name")): part for part in parts}
    if len(rest) > 1:
        raise ConfigError(f"option {option!r}: {'.'.join(inner[:2])!r} has no inner options")
    if not rest:
        known.setdefault(name, {"name": name})["weight"] = new
        return list(known.values())
    if name not in known:
        raise ConfigError(f"option {option!r}: the sum of losses has no part {name!r}, it has {', '.join(known)}")
    known[name][rest[0]] = new
    return list(known.values())

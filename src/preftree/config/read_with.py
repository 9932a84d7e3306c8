"""The rule on options that a run does not read: each says with what it is read, and one function refuses the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from preftree.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ReadWith:
    """Condition under which an option is read, in the annotation of its field, beside its type.

    Attributes:
      words: The condition in words, after "counts only with".
      holds: The condition, as a function of the options.
    """

    words: str
    holds: Callable[[Any], bool]


def check_read(options: BaseModel, defaults: Mapping[str, object]) -> None:
    """Check that every option that is set to another value than its default is read.

    The default itself is never refused: a run's config.yaml, which holds all options, is read again.

    Args:
      options: The options of one model.
      defaults: Defaults that differ from those of the fields, by name.
    Raises:
      ValueError: one is not; the message names it, and with what it is read.
    """
    for name, field in type(options).model_fields.items():
        default = defaults.get(name, field.get_default(call_default_factory=True))
        for mark in field.metadata:
            if isinstance(mark, ReadWith) and getattr(options, name) != default and not mark.holds(options):
                raise ValueError(_sentence(name, mark.words))


def require_read(name: str, is_set: bool, is_read: bool, words: str) -> None:
    """The same rule for an option whose condition is known only later, such as what is in a model's folder.

    Args:
      name: The option.
      is_set: Whether it is set to another value than its default.
      is_read: Whether it is read.
      words: With what it would be, after "counts only with".
    Raises:
      ConfigError: it is set and not read.
    """
    if is_set and not is_read:
        raise ConfigError(_sentence(name, words))


def _sentence(name: str, words: str) -> str:
    return f"{name} counts only with {words}; leave it out"

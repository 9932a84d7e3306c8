"""What a diagnosis rests on: the rows of a run taken apart, and the words a finding is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from preftree.evaluate.checks.traits import Traits, traits_of
from preftree.run_folder.measured import Measured

Severity = Literal["failure", "warning", "note"]

WINDOW_SHARE = 0.1
"""The first and the last tenth of the training rows say where a run began and where it ended."""

MIN_ROWS = 10
"""Training rows below which no trend is read."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Something that looks wrong.

    Attributes:
      name: Of the check that found it.
      severity: `failure`: the run's result should not be used; `warning`: look before using it; `note`: know it.
      figures: What it rests on.
      threshold: The rule, with its number.
      message: What was seen, in words.
      advice: What to try.
    """

    name: str
    severity: Severity
    figures: Mapping[str, float]
    threshold: str
    message: str
    advice: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A check that could not be made, for want of `what`."""

    what: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """A run's rows by kind.

    Attributes:
      rows: All of them.
      train: Those of optimiser steps.
      held_out: Those of evaluations.
      loss: Name of the loss.
      traits: What is known of it.
      starts_at_reference: Whether the policy of step 1 is the reference.
      measured: What was measured after training.
    """

    rows: tuple[Mapping[str, Any], ...]
    train: tuple[Mapping[str, Any], ...]
    held_out: tuple[Mapping[str, Any], ...]
    loss: str
    traits: Traits
    starts_at_reference: bool
    measured: Measured

    def column(self, name: str) -> Float[np.ndarray, " N"]:
        """A figure over the training rows that have it and where it is finite, [N]."""
        return _column(self.train, name)

    def start(self, name: str) -> float | None:
        """Mean of a figure over the first training rows."""
        values = self.column(name)
        return float(values[: _window(values)].mean()) if len(values) >= MIN_ROWS else None

    def end(self, name: str) -> float | None:
        """Mean of a figure over the last training rows."""
        values = self.column(name)
        return float(values[-_window(values) :].mean()) if len(values) >= MIN_ROWS else None

    def last(self, name: str) -> float | None:
        """A figure at the end: of the last evaluation that has it, else as `end`."""
        values = _column(self.held_out, name)
        return float(values[-1]) if len(values) else self.end(name)


def gather(
    rows: Iterable[Mapping[str, Any]],
    *,
    loss: str,
    starts_at_reference: bool,
    measured: Measured,
    config: Mapping[str, Any] | None = None,
) -> Evidence:
    """Sort rows into those of steps and those of evaluations; `config` has the loss's options where they matter."""
    rows = tuple(rows)
    train = tuple(row for row in rows if "split" not in row)
    held_out = tuple(row for row in rows if row.get("split") == "eval")
    traits = traits_of({"loss": loss} if config is None else config)
    return Evidence(rows, train, held_out, loss, traits, starts_at_reference, measured)


def is_number(value: object) -> bool:
    """Whether a row's value is a figure."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(rows: Iterable[Mapping[str, Any]], name: str) -> Float[np.ndarray, " N"]:
    values = np.array([row[name] for row in rows if is_number(row.get(name))], np.float64)
    return values[np.isfinite(values)]


def _window(values: Float[np.ndarray, " N"]) -> int:
    return max(1, round(WINDOW_SHARE * len(values)))

"""Evidence for checks: the rows of a run by kind; and Diagnosis and Missing, which checks return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np
from jaxtyping import Float

from preftree.evaluate.checks.traits import Traits, traits_of
from preftree.run_folder.measured_file import Measured
from preftree.run_folder.reader import Row, Run, split_rows
from preftree.stats.intervals import Estimate, mean_interval

Severity = Literal["failure", "warning", "note"]

WINDOW_SHARE = 0.1
"""Share of the training rows at either end whose mean is the start, or the end, of a run."""

MIN_ROWS = 10
"""Number of training rows below which no trend is computed."""

MARGIN_RISE = 0.1
"""Growth of the margin that counts as learning."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Something that looks wrong.

    Attributes:
      name: Name of the check.
      severity: `failure`: the run's result should not be used; `warning`: look before using it; `note`: information.
      figures: The figures that the diagnosis is based on.
      threshold: The rule, with its number.
      message: The observation, in words.
      advice: Steps to try.
    """

    name: str
    severity: Severity
    figures: Mapping[str, float]
    threshold: str
    message: str
    advice: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A check that cannot be made, since the run lacks these figures."""

    figures: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """A run's rows by kind.

    Attributes:
      policy_run: The run's folder; None where it trained a reward model, of which no step is exported.
      rows: All rows.
      train: Rows of optimiser steps.
      held_out: Rows of evaluations.
      loss: Name of the loss.
      traits: Traits of the loss.
      starts_at_reference: Whether the policy of step 1 is the reference.
      measured: Figures measured after training.
    """

    policy_run: Path | None
    rows: Sequence[Row]
    train: Sequence[Row]
    held_out: Sequence[Row]
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
        """A figure at the end of the run: from the last evaluation that has it, otherwise as `end`."""
        values = _column(self.held_out, name)
        return float(values[-1]) if len(values) else self.end(name)

    def over(self, name: str, first: float | int, last: float | int) -> Estimate | None:
        """Mean of a figure from one share of the training rows to another, with its interval over them."""
        values = self.column(name)
        part = values[int(first * len(values)) : max(int(first * len(values)) + 2, int(last * len(values)))]
        return mean_interval(part) if len(values) >= MIN_ROWS and len(part) > 1 else None

    def change(self, name: str, first: float | int, last: float | int, share: float) -> Estimate | None:
        """By how much the mean over `share` of the training rows from `last` on exceeds that from `first` on."""
        before, after = self.over(name, first, first + share), self.over(name, last, last + share)
        if before is None or after is None:
            return None
        gap, half = after.value - before.value, math.hypot(after.high - after.value, before.high - before.value)
        return Estimate(gap, gap - half, gap + half)

    def final(self, name: str) -> Estimate | None:
        """A figure at the end of the run: of the last evaluation that has it, otherwise of the last training rows.

        None where the interval of the evaluation is not known: then there is no verdict by it either.
        """
        rows = [row for row in self.held_out if is_number(row.get(name))]
        return ends_of(rows[-1], name) if rows else self.over(name, 1 - WINDOW_SHARE, 1)


def gather(run: Run) -> Evidence:
    """The rows of a run by kind, with the traits of its loss."""
    train, held_out = split_rows(run)
    starts_at_reference = run.config.get("reference", "start") == "start"
    traits = traits_of(run.config)
    policy_run = run.path if run.recipe.trains == "policy" else None
    return Evidence(policy_run, run.rows, train, held_out, run.loss, traits, starts_at_reference, run.measured)


def ends_of(row: Row, name: str) -> Estimate | None:
    """A figure of a row and its interval; None where there is none."""
    ends = [row.get(key) for key in (name, f"{name}_low", f"{name}_high")]
    return Estimate(*(float(end) for end in ends if end is not None)) if all(map(is_number, ends)) else None


def lost_share(evidence: Evidence, side: str) -> float | None:
    """Nats that a side's responses lost in training, over the nats they cost under the reference; below 0 is a gain.

    By the end of its interval that is nearer to no loss.
    """
    ratio, logps = evidence.final(f"{side}_logratio"), evidence.last(f"{side}_logps")
    if ratio is None or logps is None:
        return None
    return -ratio.high / max(ratio.value - logps, 1e-9)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a row is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(rows: Sequence[Row], name: str) -> Float[np.ndarray, " N"]:
    values = np.array([row[name] for row in rows if is_number(row.get(name))], np.float64)
    return values[np.isfinite(values)]


def _window(values: Float[np.ndarray, " N"]) -> int:
    return max(1, round(WINDOW_SHARE * len(values)))

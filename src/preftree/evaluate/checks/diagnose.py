"""From a run's figures to what looks wrong, in words.

Pure: rows of metrics.jsonl and figures measured after training go in, diagnoses come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from preftree.config.recipes import RECIPES
from preftree.evaluate.checks import drift, fit
from preftree.evaluate.checks.evidence import Diagnosis, Evidence, Missing, Severity, gather
from preftree.run_folder.measured import Measured
from preftree.run_folder.reader import Run


@dataclass(frozen=True, slots=True)
class Check:
    """One question to a run.

    Attributes:
      name: A diagnosis has the same.
      title: What it is called in a report.
      look: Answers it.
      pairs_only: Whether it makes sense for preference training alone.
    """

    name: str
    title: str
    look: Callable[[Evidence], Diagnosis | Missing | None]
    pairs_only: bool = True


CHECKS = (
    Check("non_finite", "Non-finite figures", drift.non_finite, pairs_only=False),
    Check("reference_drift", "Reference drift", drift.reference_drift),
    Check("displacement", "Likelihood displacement", drift.displacement),
    Check("length_exploitation", "Length exploitation", drift.length_exploitation),
    Check("over_optimisation", "Over-optimisation", fit.over_optimisation, pairs_only=False),
    Check("saturation", "Saturation", fit.saturation),
    Check("label_noise", "Contradictory labels", fit.label_noise),
    Check("coverage", "Coverage", drift.coverage),
)

SEVERITIES: tuple[Severity, ...] = ("failure", "warning", "note")
"""The worst first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check came to: a diagnosis, `missing` figures it would have needed, or neither: all is well."""

    check: Check
    diagnosis: Diagnosis | None
    missing: str | None


def examine(
    rows: Iterable[Mapping[str, Any]],
    *,
    recipe: str = "dpo",
    loss: str = "dpo",
    starts_at_reference: bool = True,
    measured: Measured | None = None,
    config: Mapping[str, Any] | None = None,
) -> list[Verdict]:
    """Put every check that fits the recipe to a run.

    Args:
      rows: Rows of metrics.jsonl: steps, and evaluations with "split": "eval".
      recipe: `dpo`, or `sft`, which has no margins.
      loss: Name of the loss.
      starts_at_reference: Whether the reference is the model that training started from.
      measured: Figures measured after training.
      config: The run's options, for those of its loss; by default the loss has none set.
    """
    measured = measured or Measured()
    evidence = gather(rows, loss=loss, starts_at_reference=starts_at_reference, measured=measured, config=config)
    row = RECIPES[recipe]
    has_margins = row.reads == "preferences" and row.trains == "policy"
    verdicts = []
    for check in CHECKS:
        if check.pairs_only and not has_margins:
            continue
        found = check.look(evidence)
        verdicts.append(
            Verdict(
                check,
                found if isinstance(found, Diagnosis) else None,
                found.what if isinstance(found, Missing) else None,
            )
        )
    return verdicts


def diagnose(
    rows: Iterable[Mapping[str, Any]],
    *,
    recipe: str = "dpo",
    loss: str = "dpo",
    starts_at_reference: bool = True,
    measured: Measured | None = None,
    config: Mapping[str, Any] | None = None,
) -> list[Diagnosis]:
    """What looks wrong, the worst first; empty for a healthy run. Arguments as of `examine`."""
    told = {"starts_at_reference": starts_at_reference, "measured": measured, "config": config}
    return found_in(examine(rows, recipe=recipe, loss=loss, **told))


def examine_run(run: Run) -> list[Verdict]:
    """Put every check to a run's folder."""
    starts = run.config.get("reference", "start") == "start"
    told = {"starts_at_reference": starts, "measured": run.measured, "config": run.config}
    return examine(run.rows, recipe=run.recipe.name, loss=run.loss, **told)


def found_in(verdicts: Iterable[Verdict]) -> list[Diagnosis]:
    """The diagnoses among verdicts, the worst first."""
    found = [verdict.diagnosis for verdict in verdicts if verdict.diagnosis is not None]
    return sorted(found, key=lambda diagnosis: SEVERITIES.index(diagnosis.severity))


def title_of(diagnosis: Diagnosis) -> str:
    """The title of the check that a diagnosis is from."""
    return next(check.title for check in CHECKS if check.name == diagnosis.name)

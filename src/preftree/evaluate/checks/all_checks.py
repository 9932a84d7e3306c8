"""The table of checks, and their results on a run: rows of metrics.jsonl and measured figures in, diagnoses out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from preftree.config.recipes import RECIPES
from preftree.evaluate.checks.coverage import coverage
from preftree.evaluate.checks.displacement import displacement
from preftree.evaluate.checks.evidence import Diagnosis, Evidence, Missing, Severity, gather
from preftree.evaluate.checks.label_noise import label_noise
from preftree.evaluate.checks.length_exploitation import length_exploitation
from preftree.evaluate.checks.non_finite import non_finite
from preftree.evaluate.checks.over_optimisation import over_optimisation
from preftree.evaluate.checks.reference_drift import reference_drift
from preftree.evaluate.checks.saturation import saturation
from preftree.run_folder.measured_file import Measured
from preftree.run_folder.reader import Run


@dataclass(frozen=True, slots=True)
class Check:
    """A check and how it is shown.

    Attributes:
      name: Name, also of the diagnoses it gives.
      title: Heading in a report.
      look: The function that looks at the evidence.
      pairs_only: Whether it applies to preference training only.
    """

    name: str
    title: str
    look: Callable[[Evidence], Diagnosis | Missing | None]
    pairs_only: bool = True


CHECKS = (
    Check("non_finite", "Non-finite figures", non_finite, pairs_only=False),
    Check("reference_drift", "Reference drift", reference_drift),
    Check("displacement", "Likelihood displacement", displacement),
    Check("length_exploitation", "Length exploitation", length_exploitation),
    Check("over_optimisation", "Over-optimisation", over_optimisation, pairs_only=False),
    Check("saturation", "Saturation", saturation),
    Check("label_noise", "Contradictory labels", label_noise),
    Check("coverage", "Coverage", coverage),
)

SEVERITIES: tuple[Severity, ...] = ("failure", "warning", "note")
"""Severities, worst first."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of a check: a diagnosis, or the `missing` figures it needs, or neither where all is well."""

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
) -> list[CheckResult]:
    """Run every check that applies to the recipe.

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
    results = []
    for check in CHECKS:
        if check.pairs_only and not has_margins:
            continue
        finding = check.look(evidence)
        results.append(
            CheckResult(
                check,
                finding if isinstance(finding, Diagnosis) else None,
                finding.figures if isinstance(finding, Missing) else None,
            )
        )
    return results


def examine_run(run: Run) -> list[CheckResult]:
    """Run every check that applies to a run's recipe on its folder."""
    starts = run.config.get("reference", "start") == "start"
    return examine(
        run.rows,
        recipe=run.recipe.name,
        loss=run.loss,
        starts_at_reference=starts,
        measured=run.measured,
        config=run.config,
    )


def diagnoses_in(results: Iterable[CheckResult]) -> list[Diagnosis]:
    """The diagnoses among results, worst first."""
    diagnoses = [result.diagnosis for result in results if result.diagnosis is not None]
    return sorted(diagnoses, key=lambda diagnosis: SEVERITIES.index(diagnosis.severity))


def title_of(diagnosis: Diagnosis) -> str:
    """The title of the check that a diagnosis is from."""
    return next(check.title for check in CHECKS if check.name == diagnosis.name)

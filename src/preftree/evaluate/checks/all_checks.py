"""The table of checks, and their results on a run: rows of metrics.jsonl and measured figures in, diagnoses out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from preftree.evaluate.checks.coverage import coverage
from preftree.evaluate.checks.displacement import displacement
from preftree.evaluate.checks.evidence import Diagnosis, Evidence, Missing, Severity, gather
from preftree.evaluate.checks.high_lr import high_lr
from preftree.evaluate.checks.label_noise import label_noise
from preftree.evaluate.checks.length_exploitation import length_exploitation
from preftree.evaluate.checks.memorising import memorising
from preftree.evaluate.checks.non_finite import non_finite
from preftree.evaluate.checks.over_optimisation import over_optimisation
from preftree.evaluate.checks.reference_drift import reference_drift
from preftree.evaluate.checks.saturation import saturation
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
    Check("memorising", "Memorised pairs", memorising),
    Check("high_lr", "Learning rate too high", high_lr, pairs_only=False),
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


def examine_run(run: Run) -> list[CheckResult]:
    """Run every check that applies to a run's recipe."""
    evidence = gather(run)
    has_margins = run.recipe.reads == "preferences" and run.recipe.trains == "policy"
    results = []
    for check in CHECKS:
        if has_margins or not check.pairs_only:
            finding = check.look(evidence)
            missing = finding.figures if isinstance(finding, Missing) else None
            results.append(CheckResult(check, finding if isinstance(finding, Diagnosis) else None, missing))
    return results


def diagnoses_in(results: Iterable[CheckResult]) -> list[Diagnosis]:
    """The diagnoses among results, worst first."""
    diagnoses = [result.diagnosis for result in results if result.diagnosis is not None]
    return sorted(diagnoses, key=lambda diagnosis: SEVERITIES.index(diagnosis.severity))


def title_of(diagnosis: Diagnosis) -> str:
    """The title of the check that a diagnosis is from."""
    return next(check.title for check in CHECKS if check.name == diagnosis.name)

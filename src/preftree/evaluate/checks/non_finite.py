"""Non-finite figures: a figure of a run is not a number, or training stopped because of one."""

from __future__ import annotations

import math

from preftree.evaluate.checks.evidence import Diagnosis, Evidence, Missing, is_number


def non_finite(evidence: Evidence) -> Diagnosis | Missing | None:
    """Find the first row with a figure that is not finite, or with the error that stopped training."""
    if not evidence.rows:
        return Missing("a row of metrics")
    for row in evidence.rows:
        bad = sorted(name for name, value in row.items() if is_number(value) and not math.isfinite(value))
        stopped = row.get("error")
        if not bad and stopped is None:
            continue
        step = row.get("step", math.nan)
        seen = (
            f"{', '.join(bad)} {'is' if len(bad) == 1 else 'are'} not finite at step {step}." if bad else str(stopped)
        )
        return Diagnosis(
            "non_finite",
            "failure",
            {"step": float(step)},
            "every figure is finite",
            seen,
            "Look at the rows of that step; lower lr or lengthen the warm-up; precision=fp32; clip with max_grad_norm.",
        )
    return None

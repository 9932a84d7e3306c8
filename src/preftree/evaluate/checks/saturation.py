"""Saturation: margins grow without end because the labels never contradict each other."""

from __future__ import annotations

from preftree.evaluate.checks.evidence import MIN_ROWS, WINDOW_SHARE, Diagnosis, Evidence, Missing

SATURATED_WEIGHT = 0.1
"""Mean gradient weight below which most pairs no longer contribute, where it is 1/2 in the first step.

In proportion for losses that start at another weight: a mean over tokens divides it by their number.

Healthy runs ended at .23 to .28 and 77 to 84 % training accuracy, deterministic labels at .003 to .035 and 98 to 100 %.
"""

SATURATED_ACCURACY = 0.95
"""Training accuracy above which labels never contradict each other."""


def saturation(evidence: Evidence) -> Diagnosis | Missing | None:
    """Look for vanishing gradient weights at a high training accuracy (arXiv:2310.12036)."""
    weight, accuracy = (evidence.over(name, 1 - WINDOW_SHARE, 1) for name in ("grad_weight", "accuracy"))
    margin = evidence.end("margin")
    if not evidence.traits.endless:
        return None
    if weight is None or accuracy is None or margin is None:
        return Missing(f"grad_weight and accuracy of at least {MIN_ROWS} steps")
    most = 2 * SATURATED_WEIGHT * float(evidence.column("grad_weight")[0])
    if weight.high >= most or accuracy.low <= SATURATED_ACCURACY:
        return None
    return Diagnosis(
        "saturation",
        "warning",
        {"grad_weight": weight.value, "accuracy": accuracy.value, "margin": margin},
        f"mean gradient weight < {most:.2g} and training accuracy > {SATURATED_ACCURACY:.0%}, with their whole "
        "intervals over the last steps",
        f"Training pairs are ranked right {accuracy.value:.1%} of the time with a margin of {margin:.1f}; the gradient "
        f"weight is down to {weight.value:.3f}. With labels that never contradict each other, {evidence.loss} has no "
        "minimum and the policy keeps moving.",
        "Stop earlier or raise beta; loss=cdpo with label_smoothing, or loss=ipo_sum, stop at a finite margin.",
    )

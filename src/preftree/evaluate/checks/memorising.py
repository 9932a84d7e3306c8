"""Memorised pairs: training pairs are ranked right, and others hardly better than by a coin."""

from __future__ import annotations

from preftree.evaluate.checks.evidence import MIN_ROWS, WINDOW_SHARE, Diagnosis, Evidence, Missing, ends_of, is_number
from preftree.evaluate.checks.held_out import WEAK_ACCURACY

MEMORISED_GAP = 0.15
"""Accuracy on training pairs less that on held-out ones, between the ends of their intervals that are nearer.

Healthy runs: below 0; few pairs, trained on for long: .15 to .35.
"""

SEEN_EPOCHS = 1.5
"""Passes over the data below which most pairs of the last steps were new to the policy."""


def memorising(evidence: Evidence) -> Diagnosis | Missing | None:
    """Compare the accuracy on training pairs, seen before, with that on held-out ones."""
    train, epochs = evidence.over("accuracy", 1 - WINDOW_SHARE, 1), evidence.column("epoch")
    rows = [row for row in evidence.held_out if is_number(row.get("accuracy"))]
    held_out = ends_of(rows[-1], "accuracy") if rows else None
    if train is None or held_out is None or not len(epochs):
        return Missing(f"accuracy of at least {MIN_ROWS} steps, and of held-out pairs with its interval")
    # Held-out pairs that are ranked the wrong way round have other labels, which label_noise reports.
    if epochs[-1] < SEEN_EPOCHS or train.low - held_out.high <= MEMORISED_GAP or held_out.high < 1 - WEAK_ACCURACY:
        return None
    return Diagnosis(
        "memorising",
        "warning",
        {"training_accuracy": train.value, "accuracy": held_out.value, "epochs": float(epochs[-1])},
        f"training accuracy more than {MEMORISED_GAP:.0%} above held-out accuracy, between their intervals, after "
        f"{SEEN_EPOCHS:g} epochs or more",
        f"After {epochs[-1]:.1f} passes {train.value:.1%} of the training pairs are ranked as labelled, and "
        f"{held_out.value:.1%} of the held-out ones: most of what was learned is the pairs themselves.",
        "More pairs rather than more epochs; stop earlier; raise beta. Labels that contradict each other look the same "
        "once they are learned by heart: read twenty pairs.",
    )


def learned_by_heart(evidence: Evidence) -> bool:
    """Whether `memorising` has a diagnosis, so that held-out figures say nothing of the labels."""
    return isinstance(memorising(evidence), Diagnosis)

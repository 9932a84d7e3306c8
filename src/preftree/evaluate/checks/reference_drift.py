"""Reference drift: the reference differs from the start of training, or changes during it."""

from __future__ import annotations

import numpy as np

from preftree.evaluate.checks.evidence import Diagnosis, Evidence, Missing

REFERENCE_SHARE = 0.005
"""Largest relative difference of summed log-probs that counts as rounding."""


def reference_drift(evidence: Evidence) -> Diagnosis | Missing | None:
    """Compare the reference with the start of training, and with itself over the evaluations."""
    names = [f"{side}_{name}" for side in ("chosen", "rejected") for name in ("logps", "logratio")]
    held_out = [row for row in evidence.held_out if all(name in row for name in names)]
    first = evidence.train[0] if evidence.train else {}
    starts = evidence.starts_at_reference and first.get("step") == 1 and "chosen_logratio" in first
    if not starts and len(held_out) < 2:
        return Missing("the first step of a run that starts at its reference, or two evaluations")
    rule = f"reference log-probs agree to {REFERENCE_SHARE:.1%} (and .01 nats)"
    advice = (
        "Check that the reference is frozen, without dropout, and that its cache was built from these weights and ids."
    )
    if starts:
        for side in ("chosen", "rejected"):
            ratio, logps = first.get(f"{side}_logratio", 0.0), first.get(f"{side}_logps", 0.0)
            if abs(ratio) > REFERENCE_SHARE * abs(logps) + 0.01:
                return Diagnosis(
                    "reference_drift",
                    "failure",
                    {f"{side}_logratio": ratio, f"{side}_logps": logps},
                    rule,
                    f"At step 1, before any update, policy and reference differ by {ratio:+.3g} nats on {side} "
                    "responses: the reference is not the model that training started from.",
                    advice,
                )
    for side in ("chosen", "rejected") if len(held_out) >= 2 else ():
        refs = np.array([row[f"{side}_logps"] - row[f"{side}_logratio"] for row in held_out], np.float64)
        if np.ptp(refs) > REFERENCE_SHARE * np.abs(refs).max() + 0.01:
            return Diagnosis(
                "reference_drift",
                "failure",
                {"lowest": float(refs.min()), "highest": float(refs.max())},
                rule,
                f"The reference's log-prob of the same held-out {side} responses moved by {np.ptp(refs):.3g} nats "
                "during training: it is not frozen.",
                advice,
            )
    return None

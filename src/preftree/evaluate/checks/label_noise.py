"""Contradictory labels: the labels of pairs disagree with each other, or with those of held-out pairs."""

from __future__ import annotations

import math

from preftree.evaluate.checks.evidence import MIN_ROWS, Diagnosis, Evidence, Missing
from preftree.evaluate.checks.held_out import LEARNED_NATS, WEAK_ACCURACY, carries_over, scaled_nats

CONFIDENT_EXCESS = 0.005
"""Excess of the held-out loss over that of a coin that is allowed; in proportion where that is not ln 2."""

SETTLED_LOSS = 0.04
"""Largest change of the mean training loss from the third to the last quarter that counts as settled.

About three standard deviations of the difference between two means over 1200 pairs, a quarter of a run of 150
steps of 32.
"""


def label_noise(evidence: Evidence) -> Diagnosis | Missing | None:
    """Look at held-out accuracy and loss, and for a low accuracy after training has settled."""
    accuracy, loss = evidence.last("accuracy"), evidence.last("loss")
    settled = _settled_by(evidence)
    if accuracy is None or loss is None or settled is None:
        return Missing(f"accuracy and loss of at least {MIN_ROWS} steps")
    coin = evidence.traits.untrained
    high = evidence.held_out[-1].get("accuracy_high", accuracy) if evidence.held_out else accuracy
    figures = {"accuracy": accuracy, "loss": loss}
    advice = "Read twenty pairs and judge them yourself; look for flipped columns; loss=cdpo expects a share of flips."
    if evidence.held_out and high < 0.5:
        return Diagnosis(
            "label_noise",
            "failure",
            figures,
            "held-out accuracy below one half, its interval too",
            f"Held-out pairs are ranked the wrong way round ({accuracy:.1%} right): they contradict "
            "the training pairs.",
            advice,
        )
    most = math.inf if coin is None else coin + scaled_nats(coin, CONFIDENT_EXCESS)
    if evidence.held_out and coin is not None and loss > most and not carries_over(evidence):
        return Diagnosis(
            "label_noise",
            "warning",
            figures,
            f"held-out loss > {most:.4g}, more than a coin's; and no evaluation had one below "
            f"{coin - scaled_nats(coin, LEARNED_NATS):.4g}, or an accuracy above {WEAK_ACCURACY:.0%} with its whole "
            "interval",
            f"On held-out pairs the policy is wrong too often for how sure it is: its loss of {loss:.4g} is above the "
            f"{coin:.4g} that an untrained policy scores, at {accuracy:.1%} accuracy, and it never was better.",
            f"{advice} Or train fewer steps, with a larger beta.",
        )
    if high < WEAK_ACCURACY and abs(settled) < SETTLED_LOSS:
        return Diagnosis(
            "label_noise",
            "warning",
            figures | {"loss_change": settled},
            f"accuracy < {WEAK_ACCURACY:.0%} with its whole interval, though the loss has settled (changes by less "
            f"than {SETTLED_LOSS:g})",
            f"Only {accuracy:.1%} of pairs are ranked as labelled, and training no longer changes that: the labels "
            "contradict each other, or the policy cannot tell the responses apart.",
            f"{advice} If they are sound, raise lr or train longer.",
        )
    return None


def _settled_by(evidence: Evidence) -> float | None:
    """Change of the mean training loss from the third to the last quarter."""
    losses = evidence.column("loss")
    quarter = len(losses) // 4
    if quarter < 3:
        return None
    return float(losses[-quarter:].mean() - losses[-2 * quarter : -quarter].mean())

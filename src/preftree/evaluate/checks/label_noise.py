"""Contradictory labels: the labels of pairs disagree with each other, or with those of held-out pairs."""

from __future__ import annotations

import math

from preftree.evaluate.checks.evidence import MIN_ROWS, Diagnosis, Evidence, Missing
from preftree.evaluate.checks.held_out import LEARNED_NATS, WEAK_ACCURACY, carries_over, scaled_nats
from preftree.evaluate.checks.high_lr import diverged
from preftree.evaluate.checks.memorising import learned_by_heart
from preftree.stats.intervals import Estimate

CONFIDENT_EXCESS = 0.005
"""Excess of the held-out loss over that of a coin that is allowed; in proportion where that is not ln 2."""

SETTLED_LOSS = 0.04
"""Largest fall of the mean training loss from the third to the last quarter that counts as settled.

About three standard deviations of the difference between two means over 1200 pairs, a quarter of a run of 150
steps of 32; the lower end of its interval is compared.
"""

CONTRADICTED = 0.5
"""Held-out accuracy below which labels contradict those of training, if its whole interval is; above, they agree."""


def label_noise(evidence: Evidence) -> Diagnosis | Missing | None:
    """Look at held-out accuracy and loss, and for a low accuracy after training has settled.

    Pairs that were learned by heart, and updates that are too large, have checks of their own: a bad end says nothing
    of the labels then.
    """
    accuracy, loss, change = evidence.final("accuracy"), evidence.final("loss"), _change_of_loss(evidence)
    if accuracy is None or change is None:
        return Missing(f"accuracy with its interval and loss of at least {MIN_ROWS} steps")
    by_heart = learned_by_heart(evidence)
    coin = evidence.traits.untrained
    figures = {"accuracy": accuracy.value} | ({} if loss is None else {"loss": loss.value})
    advice = "Read twenty pairs and judge them yourself; look for flipped columns; loss=cdpo expects a share of flips."
    if evidence.held_out and accuracy.high < (1 - WEAK_ACCURACY if by_heart else CONTRADICTED):
        return Diagnosis(
            "label_noise",
            "failure",
            figures,
            "held-out accuracy below one half, its interval too",
            f"Held-out pairs are ranked the wrong way round ({accuracy.value:.1%} right): they contradict "
            "the training pairs.",
            advice,
        )
    if by_heart or diverged(evidence):
        return None
    most = math.inf if coin is None else coin + scaled_nats(coin, CONFIDENT_EXCESS)
    unsure = loss is not None and loss.low > most and accuracy.low <= CONTRADICTED and not carries_over(evidence)
    if evidence.held_out and coin is not None and loss is not None and unsure:
        return Diagnosis(
            "label_noise",
            "warning",
            figures,
            f"held-out loss > {most:.4g} with its whole interval, more than a coin's, at an accuracy whose interval "
            f"holds one half; and no evaluation had a loss below {coin - scaled_nats(coin, LEARNED_NATS):.4g}, or an "
            f"accuracy above {WEAK_ACCURACY:.0%}, with its whole interval",
            f"On held-out pairs the policy is wrong too often for how sure it is: its loss of {loss.value:.4g} is "
            f"above the {coin:.4g} that an untrained policy scores, at {accuracy.value:.1%} accuracy, and it never was "
            "better.",
            f"{advice} Or train fewer steps, with a larger beta.",
        )
    if accuracy.high < WEAK_ACCURACY and change.low > -SETTLED_LOSS:
        return Diagnosis(
            "label_noise",
            "warning",
            figures | {"loss_change": change.value},
            f"accuracy < {WEAK_ACCURACY:.0%} with its whole interval, though the loss has settled (falls by less than "
            f"{SETTLED_LOSS:g} with its whole interval)",
            f"Only {accuracy.value:.1%} of pairs are ranked as labelled, and training no longer changes that: the "
            "labels contradict each other, or the policy cannot tell the responses apart.",
            f"{advice} If they are sound, raise lr or train longer.",
        )
    return None


def _change_of_loss(evidence: Evidence) -> Estimate | None:
    """Change of the mean training loss from the third to the last quarter."""
    return evidence.change("loss", 0.5, 0.75, 0.25)

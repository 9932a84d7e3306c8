"""Held-out losses and accuracies, and whether they show that something was learned."""

from __future__ import annotations

import math

from preftree.evaluate.checks.evidence import Evidence, is_number

LEARNED_NATS = 0.02
"""Fall of the held-out loss below that of a coin that counts as learning; in proportion where that is not ln 2.

Healthy runs fell by .13 to .31, with 45 % of the labels flipped by .002 or not at all.
"""

WEAK_ACCURACY = 0.6
"""Accuracy that consistent labels exceed once training has settled; the upper end of its interval is compared."""


def held_out_losses(evidence: Evidence) -> list[tuple[int, float]]:
    """(step, loss) of the evaluations that have a loss."""
    return [(int(row["step"]), row["loss"]) for row in evidence.held_out if is_number(row.get("loss"))]


def carries_over(evidence: Evidence) -> bool:
    """Whether an evaluation was better than a coin: by its loss or, where margins are too large for it, by accuracy.

    By the whole interval; the evaluation before the first step does not count.
    """
    coin = evidence.traits.untrained
    most = math.inf if coin is None else coin - scaled_nats(coin, LEARNED_NATS)
    rows = [row for row in evidence.held_out if row["step"] > 0]
    by_loss = any(row.get("loss_high", math.inf) < most for row in rows if is_number(row.get("loss")))
    return by_loss or any(row.get("accuracy_low", 0.0) > WEAK_ACCURACY for row in rows)


def scaled_nats(coin: float, nats: float) -> float:
    """A difference that is `nats` where a coin's loss is ln 2."""
    return nats * coin / math.log(2)

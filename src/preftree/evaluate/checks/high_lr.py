"""Learning rate too high: for a quarter of training the loss was above that of the untrained policy."""

from __future__ import annotations

from preftree.evaluate.checks.evidence import MIN_ROWS, WINDOW_SHARE, Diagnosis, Evidence, Missing

WORSE_SHARE = 0.1
"""Rise of the training loss above the start's that no label explains: updates that did nothing would keep it there.

Healthy runs: none (-.06 at most, by the lower end), with 45 % of the labels flipped .05; lr too high: .46 to .58.
"""


def high_lr(evidence: Evidence) -> Diagnosis | Missing | None:
    """Compare the training loss of each quarter with that of the start."""
    start = loss_at_start(evidence)
    quarters = [evidence.over("loss", part / 4, (part + 1) / 4) for part in range(4)]
    known = [quarter for quarter in quarters if quarter is not None]
    if start is None or len(known) < 4:
        return Missing(f"the loss of the first step and of at least {MIN_ROWS} others")
    worst = max(known, key=lambda quarter: quarter.low)
    if worst.low <= start + WORSE_SHARE * abs(start):
        return None
    return Diagnosis(
        "high_lr",
        "warning",
        {"loss_at_start": start, "loss": worst.value, "last_loss": known[-1].value},
        f"training loss of a quarter of the run more than {WORSE_SHARE:.0%} above that of the start, with its whole "
        "interval",
        f"The training loss was {worst.value:.4g} over quarter {known.index(worst) + 1} of the run (at the end "
        f"{known[-1].value:.4g}), where a policy that did not move keeps {start:.4g}: the updates are too large.",
        "Lower lr by a factor of 3 to 10; lengthen the warm-up; clip with max_grad_norm. What other checks find after "
        "that says more of the data.",
    )


def loss_at_start(evidence: Evidence) -> float | None:
    """Loss before training: the untrained value where the run began there, else the upper end over the first rows."""
    coin, losses = evidence.traits.untrained, evidence.column("loss")
    if not len(losses):
        return None
    if coin is not None and evidence.train[0].get("step") == 1:
        return max(coin, float(losses[0]))  # another reference than the start begins elsewhere
    first = evidence.over("loss", 0, WINDOW_SHARE)
    return None if first is None else first.high


def diverged(evidence: Evidence) -> bool:
    """Whether `high_lr` has a diagnosis, so that a bad end says nothing of the data."""
    return isinstance(high_lr(evidence), Diagnosis)

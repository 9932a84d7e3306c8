"""Checks of what was learned: too much of it, too surely, or from labels that do not agree. As in drift.py."""

from __future__ import annotations

import math

from preftree.evaluate.checks.evidence import MIN_ROWS, Diagnosis, Evidence, Missing, is_number
from preftree.run_folder.measured import Point

REWARD_DROP = 0.2
"""Share of the reward gained that may be lost again while the policy stays as far out.

Healthy runs lost up to .04. With beta .01 reward wanders at a KL of 4 to 14: one run of three ended .32 low, two .08.
"""

MOVED_KL = 0.2
"""Nats of KL below which a gain in reward is too small a thing to lose a share of."""

STAYED = 0.5
"""Share of the KL at the best reward that counts as staying as far out."""

LOSS_RISE = 0.1
"""Relative rise of the held-out loss over its lowest value.

Healthy runs: none; few pairs, trained on for long: .32 to .72. (Two of 60 healthy runs of later seeds: .12 and .14.)
"""

ACCURACY_DROP = 0.03
"""Fall of held-out accuracy from its best."""

SATURATED_WEIGHT = 0.1
"""Mean gradient weight below which most pairs have stopped teaching, where it is 1/2 in the first step.

In proportion for losses that begin elsewhere: a mean over tokens divides the weight by their number.

Healthy runs ended at .23 to .28 and 77 to 84 % training accuracy, deterministic labels at .003 to .035 and 98 to 100 %.
"""

SATURATED_ACCURACY = 0.95
"""Training accuracy that goes with it when labels never contradict each other."""

CONFIDENT_EXCESS = 0.005
"""By how much the held-out loss may exceed a coin's, where a coin's is ln 2; in proportion for other losses."""

LEARNED_NATS = 0.02
"""Fall of the held-out loss below a coin's that counts as having learned something that carries over; as above.

Healthy runs fell by .13 to .31, with 45 % of the labels flipped by .002 or not at all.
"""

WEAK_ACCURACY = 0.6
"""Accuracy that labels of one opinion exceed once training has settled; the upper end of its interval is compared."""

SETTLED_LOSS = 0.04
"""Change of the mean training loss from the third to the last quarter that counts as settled.

About three times what chance makes of two means over 1200 pairs, a quarter of a run of 150 steps of 32.
"""


def over_optimisation(evidence: Evidence) -> Diagnosis | Missing | None:
    """Going on made the result worse (arXiv:2406.02900)."""
    losses = _held_out_losses(evidence)
    lost = reward_lost(evidence)
    if lost is None and len(losses) < 2:
        return Missing("two evaluations on held-out data (eval_every), or reward and KL along training")
    if lost is not None and lost > REWARD_DROP:
        points = _frontier(evidence)
        best, last = max(points, key=lambda p: p.reward), points[-1]
        return Diagnosis(
            "over_optimisation",
            "warning",
            {"best_reward": best.reward, "reward": last.reward, "best_kl": best.kl, "kl": last.kl},
            f"more than {REWARD_DROP:.0%} of the gain in reward lost again at {STAYED:.0%} of the KL or more",
            f"Reward was highest at step {best.step} ({best.reward:.3g} at KL {best.kl:.2g}) and fell to "
            f"{last.reward:.3g} by the end, at KL {last.kl:.2g}.",
            f"Use a checkpoint near step {best.step}; save more often; raise beta; train fewer steps.",
        )
    return _overfit(evidence, losses)


def reward_lost(evidence: Evidence) -> float | None:
    """Share of the reward gained that was lost again by the end; 0 where the policy hardly moved, or came back."""
    points = _frontier(evidence)
    if len(points) < 3:
        return None
    best, last = max(points, key=lambda p: p.reward), points[-1]
    gain = best.reward - points[0].reward
    if gain <= 0 or best.kl < MOVED_KL or last.kl < STAYED * best.kl:
        return 0.0
    return (best.reward - last.reward) / gain


def _frontier(evidence: Evidence) -> list[Point]:
    return sorted((p for p in evidence.measured.frontier if p.step is not None), key=lambda p: p.step or 0)


def _held_out_losses(evidence: Evidence) -> list[tuple[int, float]]:
    return [(int(row["step"]), row["loss"]) for row in evidence.held_out if is_number(row.get("loss"))]


def _overfit(evidence: Evidence, losses: list[tuple[int, float]]) -> Diagnosis | None:
    if len(losses) < 2:
        return None
    step, lowest = min(losses, key=lambda item: item[1])
    loss = losses[-1][1]
    accuracies = [
        (row["accuracy"], int(row["step"]), row.get("accuracy_low", row["accuracy"]))
        for row in evidence.held_out
        if is_number(row.get("accuracy"))
    ]
    last = evidence.held_out[-1]
    advice = f"Use a checkpoint near step {step}; stop earlier; raise beta; more data rather than more epochs."
    # Where nothing was learned that carries over, that is for label_noise to say.
    if loss > lowest * (1 + LOSS_RISE) and _carries_over(evidence):
        return Diagnosis(
            "over_optimisation",
            "warning",
            {"lowest_loss": lowest, "loss": loss},
            f"held-out loss more than {LOSS_RISE:.0%} above its lowest",
            f"The held-out loss was lowest at step {step} ({lowest:.4g}) and has risen to {loss:.4g} since: "
            "what was learned after that does not carry over.",
            advice,
        )
    if len(accuracies) < 2 or "accuracy" not in last:
        return None
    best, at, surely = max(accuracies)
    if (
        surely > 0.5
        and last["accuracy"] < best - ACCURACY_DROP
        and last.get("accuracy_high", last["accuracy"]) < surely
    ):
        return Diagnosis(
            "over_optimisation",
            "warning",
            {"best_accuracy": best, "accuracy": last["accuracy"]},
            f"held-out accuracy more than {ACCURACY_DROP:.0%} below its best, and their intervals apart",
            f"Held-out accuracy was best at step {at} ({best:.1%}) and has fallen to {last['accuracy']:.1%}.",
            advice,
        )
    return None


def saturation(evidence: Evidence) -> Diagnosis | Missing | None:
    """Margins run away because the labels never contradict each other (arXiv:2310.12036)."""
    weight, accuracy, margin = (evidence.end(name) for name in ("grad_weight", "accuracy", "margin"))
    if not evidence.traits.endless:
        return None
    if weight is None or accuracy is None or margin is None:
        return Missing(f"grad_weight and accuracy of at least {MIN_ROWS} steps")
    most = 2 * SATURATED_WEIGHT * float(evidence.column("grad_weight")[0])
    if weight >= most or accuracy <= SATURATED_ACCURACY:
        return None
    return Diagnosis(
        "saturation",
        "warning",
        {"grad_weight": weight, "accuracy": accuracy, "margin": margin},
        f"mean gradient weight < {most:.2g} and training accuracy > {SATURATED_ACCURACY:.0%}",
        f"Training pairs are ranked right {accuracy:.1%} of the time with a margin of {margin:.1f}; the gradient "
        f"weight is down to {weight:.3f}. With labels that never contradict each other, {evidence.loss} has no minimum "
        "and the policy moves on.",
        "Stop earlier or raise beta; loss=cdpo with label_smoothing, or loss=ipo_sum, stop at a finite margin.",
    )


def label_noise(evidence: Evidence) -> Diagnosis | Missing | None:
    """Labels that contradict each other, or say the opposite on held-out pairs."""
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
    most = math.inf if coin is None else coin + _as_share_of(coin, CONFIDENT_EXCESS)
    if evidence.held_out and coin is not None and loss > most and not _carries_over(evidence):
        return Diagnosis(
            "label_noise",
            "warning",
            figures,
            f"held-out loss > {most:.4g}, more than a coin's; and no evaluation had one below "
            f"{coin - _as_share_of(coin, LEARNED_NATS):.4g}, or an accuracy above {WEAK_ACCURACY:.0%} with its whole "
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


def _carries_over(evidence: Evidence) -> bool:
    """Whether an evaluation was better than a coin: by its loss or, where margins are too large for it, by accuracy."""
    coin = evidence.traits.untrained
    most = math.inf if coin is None else coin - _as_share_of(coin, LEARNED_NATS)
    by_loss = any(value < most for _, value in _held_out_losses(evidence))
    return by_loss or any(row.get("accuracy_low", 0.0) > WEAK_ACCURACY for row in evidence.held_out)


def _as_share_of(coin: float, nats: float) -> float:
    """A difference that is `nats` where a coin's loss is ln 2."""
    return nats * coin / math.log(2)


def _settled_by(evidence: Evidence) -> float | None:
    """Change of the mean training loss from the third to the last quarter."""
    losses = evidence.column("loss")
    quarter = len(losses) // 4
    if quarter < 3:
        return None
    return float(losses[-quarter:].mean() - losses[-2 * quarter : -quarter].mean())

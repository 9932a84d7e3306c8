"""Over-optimisation: training longer made the policy worse."""

from __future__ import annotations

import shlex

from preftree.evaluate.checks.evidence import Diagnosis, Evidence, Missing, ends_of, is_number
from preftree.evaluate.checks.held_out import carries_over, held_out_losses
from preftree.run_folder.measured_file import Point
from preftree.run_folder.steps import nearest_step

REWARD_DROP = 0.2
"""Share of the gain in reward that may be lost again while the policy stays at the same KL.

Healthy runs lost up to .04. With beta .01 reward wanders at a KL of 4 to 14: one run of three ended .32 low, two .08.
"""

MOVED_KL = 0.2
"""KL in nats below which gains in reward are too small to compare."""

STAYED = 0.5
"""Share of the KL at the best reward that counts as staying at that KL."""

LOSS_RISE = 0.1
"""Relative rise of the held-out loss over its lowest value.

Healthy runs: none; few pairs, trained on for long: .32 to .72. (Two of 60 healthy runs of later seeds: .12 and .14.)
"""

ACCURACY_DROP = 0.03
"""Fall of held-out accuracy from its best."""


def over_optimisation(evidence: Evidence) -> Diagnosis | Missing | None:
    """Look for a reward that fell again, or a held-out loss or accuracy that got worse (arXiv:2406.02900)."""
    losses = held_out_losses(evidence)
    lost = reward_lost(evidence)
    if lost is None and len(losses) < 2:
        return Missing("two evaluations on held-out data (eval_every), or reward and KL along training")
    points = _frontier(evidence)
    if lost is not None and lost > REWARD_DROP and _apart(max(points, key=lambda p: p.reward), points[-1]):
        best, last = max(points, key=lambda p: p.reward), points[-1]
        return Diagnosis(
            "over_optimisation",
            "warning",
            {"best_reward": best.reward, "reward": last.reward, "best_kl": best.kl, "kl": last.kl},
            f"more than {REWARD_DROP:.0%} of the gain in reward lost again at {STAYED:.0%} of the KL or more, and "
            "their intervals apart where there are any",
            f"Reward was highest at step {best.step} ({best.reward:.3g} at KL {best.kl:.2g}) and fell to "
            f"{last.reward:.3g} by the end, at KL {last.kl:.2g}.",
            f"{_use_step(evidence, best.step or 0)}; raise beta; train fewer steps.",
        )
    return _overfit(evidence, losses)


def reward_lost(evidence: Evidence) -> float | None:
    """Share of the gain in reward lost again by the end; 0 where the policy hardly moved, or came back."""
    points = _frontier(evidence)
    if len(points) < 3:
        return None
    best, last = max(points, key=lambda p: p.reward), points[-1]
    gain = best.reward - points[0].reward
    if gain <= 0 or best.kl < MOVED_KL or last.kl < STAYED * best.kl:
        return 0.0
    return (best.reward - last.reward) / gain


def _apart(best: Point, last: Point) -> bool:
    """Whether the intervals of two rewards do not meet, or of the gains where they are known; exact ones have none."""
    ends = best.model_extra or {}, last.model_extra or {}
    name = "gain" if all("gain_low" in end for end in ends) else "reward"
    low, high = ends[0].get(f"{name}_low"), ends[1].get(f"{name}_high")
    return low is None or high is None or low > high


def _frontier(evidence: Evidence) -> list[Point]:
    return sorted((p for p in evidence.measured.frontier if p.step is not None), key=lambda p: p.step or 0)


def _use_step(evidence: Evidence, step: int) -> str:
    """Advice to use the weights on disk that are nearest to a step, by a command that works."""
    if step == 0:
        return "No step was better than the start: a lower lr"
    run = evidence.policy_run
    near = None if run is None else nearest_step(run, step)
    if near is None:
        return f"Train again with keep_best=loss, or max_steps={step}"
    return f"Use step {near}: preftree export {shlex.quote(f'{run}@{near}')} OUT --merged"


def _overfit(evidence: Evidence, losses: list[tuple[int, float]]) -> Diagnosis | None:
    if len(losses) < 2:
        return None
    step, lowest = min(losses, key=lambda item: item[1])
    loss = losses[-1][1]
    of_step = {int(row["step"]): ends_of(row, "loss") for row in evidence.held_out}
    best_loss, last_loss = of_step[step], of_step[losses[-1][0]]
    risen = best_loss is not None and last_loss is not None and last_loss.low > best_loss.high
    accuracies = [
        (row["accuracy"], int(row["step"]), row.get("accuracy_low", 0.0))
        for row in evidence.held_out
        if is_number(row.get("accuracy"))
    ]
    last = evidence.held_out[-1]
    advice = f"{_use_step(evidence, step)}; stop_after=3; raise beta; more data rather than more epochs."
    # Where nothing was learned that generalises, label_noise or memorising reports it.
    if risen and loss > lowest + LOSS_RISE * abs(lowest) and carries_over(evidence):
        return Diagnosis(
            "over_optimisation",
            "warning",
            {"lowest_loss": lowest, "loss": loss},
            f"held-out loss more than {LOSS_RISE:.0%} above its lowest, and their intervals apart",
            f"The held-out loss was lowest at step {step} ({lowest:.4g}) and has risen to {loss:.4g} since: "
            "what was learned after that does not carry over.",
            advice,
        )
    if len(accuracies) < 2 or "accuracy" not in last:
        return None
    best, at, surely = max(accuracies)
    if surely > 0.5 and last["accuracy"] < best - ACCURACY_DROP and last.get("accuracy_high", 1.0) < surely:
        return Diagnosis(
            "over_optimisation",
            "warning",
            {"best_accuracy": best, "accuracy": last["accuracy"]},
            f"held-out accuracy more than {ACCURACY_DROP:.0%} below its best, and their intervals apart",
            f"Held-out accuracy was best at step {at} ({best:.1%}) and has fallen to {last['accuracy']:.1%}.",
            f"{_use_step(evidence, at)}; stop_after=3; raise beta; more data rather than more epochs.",
        )
    return None

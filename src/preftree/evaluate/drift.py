"""Checks of where the policy went: figures that are none, a moving reference, probability that left the pairs.

Every check takes the evidence and gives a Diagnosis, None where all is well, or Missing where there was nothing to look
at. The numbers are starting points: a check is as good as the planted failures it was tried on.
"""

from __future__ import annotations

import math

import numpy as np

from preftree.evaluate.evidence import MIN_ROWS, Diagnosis, Evidence, Missing, is_number

DISPLACED_NATS = -1.0
"""Mean chosen logratio below which chosen responses count as displaced: e times less likely than before training."""

MARGIN_RISE = 0.1
"""Growth of the margin that counts as learning."""

LENGTH_R2 = 0.5
"""Share of the margin's variance that the difference in length may explain."""

LENGTH_ROWS = 40
"""Training rows below which that share is not estimated."""

LENGTH_RATIO = 1.3
"""The policy's samples over chosen responses, in mean tokens."""

LEFT_NATS = -5.0
"""Mean logratio of both sides below which probability has left the pairs: less than 1 % of it remains."""

EFFECTIVE_SHARE = 0.1
"""Effective sample size of policy / reference, as a share of the reference samples."""

UNSEEN_MASS = 0.5
"""Share of the policy's samples that no pair holds."""

REFERENCE_SHARE = 0.005
"""Relative difference of summed log-probs that rounding may make."""


def non_finite(evidence: Evidence) -> Diagnosis | Missing | None:
    """A figure that is not a number, or training stopped by one."""
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


def reference_drift(evidence: Evidence) -> Diagnosis | Missing | None:
    """The reference is not what it should be: not the start, or not the same throughout."""
    held_out = [row for row in evidence.held_out if "chosen_logps" in row and "chosen_logratio" in row]
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
    refs = np.array([row["chosen_logps"] - row["chosen_logratio"] for row in held_out], np.float64)
    if len(refs) >= 2 and np.ptp(refs) > REFERENCE_SHARE * np.abs(refs).max() + 0.01:
        return Diagnosis(
            "reference_drift",
            "failure",
            {"lowest": float(refs.min()), "highest": float(refs.max())},
            rule,
            f"The reference's log-prob of the same held-out responses moved by {np.ptp(refs):.3g} nats during "
            "training: it is not frozen.",
            advice,
        )
    return None


def displacement(evidence: Evidence) -> Diagnosis | Missing | None:
    """Chosen responses become less likely while the margin rises (arXiv:2410.08847)."""
    ratio, before, after = evidence.last("chosen_logratio"), evidence.start("margin"), evidence.end("margin")
    if ratio is None or before is None or after is None:
        return Missing(f"chosen_logratio and margin of at least {MIN_ROWS} steps")
    if ratio >= DISPLACED_NATS or after - before < MARGIN_RISE:
        return None
    rejected = evidence.last("rejected_logratio") or 0.0
    return Diagnosis(
        "displacement",
        "warning",
        {"chosen_logratio": ratio, "rejected_logratio": rejected, "margin_rise": after - before},
        f"mean chosen logratio < {DISPLACED_NATS:g} nats while the margin rises by {MARGIN_RISE:g} or more",
        f"The margin rose by {after - before:.2f}, yet chosen responses lost {-ratio:.1f} nats (rejected ones "
        f"{-rejected:.1f}): the policy moves away from both, and what it moves to, no pair has judged.",
        "Raise beta or lower lr; train fewer steps; fine-tune on the chosen responses first; look at samples.",
    )


def coverage(evidence: Evidence) -> Diagnosis | Missing | None:
    """The policy has gone where the data says nothing."""
    measured = evidence.measured
    chosen, rejected = evidence.last("chosen_logratio"), evidence.last("rejected_logratio")
    advice = (
        "Sample from the policy and have those responses compared (a new round of pairs); raise beta; stop earlier."
    )
    if measured.unseen_mass is not None and measured.unseen_mass > UNSEEN_MASS:
        return Diagnosis(
            "coverage",
            "warning",
            {"unseen_mass": measured.unseen_mass},
            f"more than {UNSEEN_MASS:.0%} of the policy's samples are in no pair",
            f"{measured.unseen_mass:.0%} of what the policy writes, no pair has judged.",
            advice,
        )
    if measured.effective_share is not None and measured.effective_share < EFFECTIVE_SHARE:
        return Diagnosis(
            "coverage",
            "warning",
            {"effective_share": measured.effective_share},
            f"effective sample size < {EFFECTIVE_SHARE:.0%} of the reference samples",
            f"Samples of the reference are worth {measured.effective_share:.1%} of their number under the "
            "policy: it lives on a few of them, or elsewhere.",
            advice,
        )
    if chosen is None or rejected is None:
        return Missing(f"logratios of at least {MIN_ROWS} steps, or samples of the policy")
    if max(chosen, rejected) >= LEFT_NATS:
        return None
    return Diagnosis(
        "coverage",
        "warning",
        {"chosen_logratio": chosen, "rejected_logratio": rejected},
        f"mean logratio of both sides < {LEFT_NATS:g} nats",
        f"Chosen and rejected responses are both far less likely than before training ({chosen:.1f} and {rejected:.1f} "
        "nats): probability went to responses that are in no pair.",
        advice,
    )


def length_exploitation(evidence: Evidence) -> Diagnosis | Missing | None:
    """The margin is bought with length, or the policy's own samples grow."""
    measured = evidence.measured
    diagnosis = _sampled_length(evidence)
    explained = _length_share(evidence)
    if diagnosis is not None or (explained is None and measured.sampled_tokens is not None):
        return diagnosis
    if explained is None:
        return Missing(f"lengths and margins of {LENGTH_ROWS} steps with responses of different length, or samples")
    share, nats = explained
    if share <= LENGTH_R2:
        return None
    side = "longer" if nats > 0 else "shorter"
    return Diagnosis(
        "length_exploitation",
        "warning",
        {"explained_share": share, "margin_per_token": nats},
        f"difference in length explains more than {LENGTH_R2:.0%} of the margin",
        f"The difference in length explains {share:.0%} of how the margin varies from step to step "
        f"({nats:+.3f} a token): the policy mostly prefers what is {side}.",
        "Compare the lengths of chosen and rejected responses and balance them; use a loss that divides by length.",
    )


def _sampled_length(evidence: Evidence) -> Diagnosis | None:
    sampled, before = evidence.measured.sampled_tokens, evidence.measured.ref_sampled_tokens
    chosen = evidence.last("chosen_tokens")
    if sampled is None or chosen is None or sampled <= LENGTH_RATIO * max(chosen, before or 0.0):
        return None
    return Diagnosis(
        "length_exploitation",
        "warning",
        {
            "sampled_tokens": sampled,
            "chosen_tokens": chosen,
            **({} if before is None else {"ref_sampled_tokens": before}),
        },
        f"samples longer than {LENGTH_RATIO:g} times chosen responses and the reference's samples",
        f"The policy writes {sampled:.0f} tokens on average where chosen responses have {chosen:.0f}.",
        "Compare by a length-controlled win rate; balance the lengths in the data; use a loss that divides by length.",
    )


def _length_share(evidence: Evidence) -> tuple[float, float] | None:
    """R^2 and slope of margin on length difference over the later half of training, both freed of their trend in time.

    Pairs meet in steps at random, so means of steps obey the regression that pairs obey, with the same R^2.
    """
    names = ("margin", "chosen_tokens", "rejected_tokens")
    rows = [row for row in evidence.train if all(is_number(row.get(name)) for name in names)]
    later = np.array([[row[name] for name in names] for row in rows[len(rows) // 2 :]], np.float64).reshape(-1, 3)
    later = later[np.isfinite(later).all(axis=1)]
    if len(later) < LENGTH_ROWS // 2:
        return None
    time = np.stack([np.ones(len(later)), np.arange(len(later))], axis=1)
    values = np.stack([later[:, 0], later[:, 1] - later[:, 2]], axis=1)
    margin, length = (values - time @ np.linalg.lstsq(time, values)[0]).T
    if length.std() < 1e-6 or margin.std() < 1e-12:
        return None
    slope = float(margin @ length / (length @ length))
    return float(np.corrcoef(margin, length)[0, 1] ** 2), slope

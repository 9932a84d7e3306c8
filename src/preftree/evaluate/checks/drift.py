"""Checks of where the policy went: figures that are none, a moving reference, probability that left the pairs.

Every check takes the evidence and gives a Diagnosis, None where all is well, or Missing where there was nothing to look
at. The thresholds were fixed on runs with planted failures, seeds 0-2 of benchmarks/diagnose.py, and are counted on its
other seeds in docs/report.md. Figures in the comments here are of seeds 0-2: healthy runs against the planted ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from preftree.evaluate.checks.evidence import MIN_ROWS, Diagnosis, Evidence, Missing, is_number

DISPLACED_SHARE = 1.0
"""Nats that chosen responses lost, over the nats they cost under the reference: at 1 they are as unlikely again.

A share, since nats grow with length and with how open the language is. Some loss is the rule: pairs are drawn from the
reference, and the mean of log policy / reference over its samples is below zero for any other policy. Healthy runs lost
up to .39 (2.7 nats, 0.8 a token, at KL 2.6 and twice the reward), beta .01 lost 8 to 11 (57 to 78 nats).
"""

MARGIN_RISE = 0.1
"""Growth of the margin that counts as learning."""

LEFT_SHARE = 3.0
"""The same share, of chosen and of rejected responses both, from which probability has left the pairs.

As above, since rejected responses lose more. Above DISPLACED_SHARE: what lost twice its cost was displaced; it need not
have left.
"""

EFFECTIVE_SHARE = 0.005
"""Effective sample size of policy / reference, as a share of the reference samples; about exp(-KL) or less.

Healthy runs had .02 or more, beta .01 had .0004 to .0022.
"""

LENGTH_R2 = 0.3
"""Share of the margin that the difference in length explains, over all pairs taken either way round.

Healthy runs: up to .05; labels that like length: .46 to .61.
"""

LENGTH_TREND = 0.1
"""The same share among pairs as they are labelled: without it, chosen responses are longer and no more is known.

Healthy runs: up to .07; labels that like length: .29 to .37.
"""

LENGTH_ROWS = 40
"""Training rows below which that share is not estimated."""

LENGTH_RATIO = 1.3
"""The policy's samples over chosen responses, in mean tokens."""

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


def lost_share(evidence: Evidence, side: str) -> float | None:
    """Nats that a side's responses lost in training, over the nats they cost under the reference; below 0 is a gain."""
    ratio, logps = evidence.last(f"{side}_logratio"), evidence.last(f"{side}_logps")
    if ratio is None or logps is None:
        return None
    return -ratio / max(ratio - logps, 1e-9)


def displacement(evidence: Evidence) -> Diagnosis | Missing | None:
    """Chosen responses become less likely while the margin rises (arXiv:2410.08847)."""
    lost, before, after = lost_share(evidence, "chosen"), evidence.start("margin"), evidence.end("margin")
    if lost is None or before is None or after is None:
        return Missing(f"chosen_logratio, chosen_logps and margin of at least {MIN_ROWS} steps")
    if lost <= DISPLACED_SHARE or after - before < MARGIN_RISE:
        return None
    chosen, rejected = (evidence.last(f"{side}_logratio") or 0.0 for side in ("chosen", "rejected"))
    return Diagnosis(
        "displacement",
        "warning",
        {"chosen_logratio": chosen, "rejected_logratio": rejected, "lost_share": lost, "margin_rise": after - before},
        f"chosen responses lost more than {DISPLACED_SHARE:.0%} of the nats they cost under the reference, while the "
        f"margin rose by {MARGIN_RISE:g} or more",
        f"The margin rose by {after - before:.2f}, yet chosen responses lost {-chosen:.1f} nats (rejected ones "
        f"{-rejected:.1f}), {lost:.0%} of what they cost under the reference: the policy moves away from both, and "
        "what it moves to, no pair has judged.",
        "Raise beta or lower lr; train fewer steps; fine-tune on the chosen responses first; look at samples.",
    )


def coverage(evidence: Evidence) -> Diagnosis | Missing | None:
    """The policy has gone where the data says nothing."""
    share = evidence.measured.effective_share
    lost = [lost_share(evidence, side) for side in ("chosen", "rejected")]
    advice = (
        "Sample from the policy and have those responses compared (a new round of pairs); raise beta; stop earlier."
    )
    if share is not None and share < EFFECTIVE_SHARE:
        # Not a rule: of long texts nearly all of what the reference itself writes is in no pair.
        unseen = {} if evidence.measured.unseen_mass is None else {"unseen_mass": evidence.measured.unseen_mass}
        return Diagnosis(
            "coverage",
            "warning",
            {"effective_share": share, **unseen},
            f"effective sample size < {EFFECTIVE_SHARE:.1%} of the reference samples",
            f"Samples of the reference are worth {share:.2%} of their number under the policy: it lives on a few of "
            "them, or elsewhere.",
            advice,
        )
    chosen, rejected = lost
    if chosen is None or rejected is None:
        return Missing(f"logps and logratios of at least {MIN_ROWS} steps, or samples of the policy")
    if min(chosen, rejected) <= LEFT_SHARE:
        return None
    return Diagnosis(
        "coverage",
        "warning",
        {"chosen_lost_share": chosen, "rejected_lost_share": rejected},
        f"chosen and rejected responses both lost more than {LEFT_SHARE:.0%} of the nats they cost under the reference",
        f"Chosen and rejected responses are both far less likely than before training: they lost {chosen:.1f} and "
        f"{rejected:.1f} times the nats they cost under the reference. Probability went to responses that are in no "
        "pair.",
        advice,
    )


def length_exploitation(evidence: Evidence) -> Diagnosis | Missing | None:
    """The margin is bought with length, or the policy's own samples grow."""
    measured = evidence.measured
    diagnosis = _sampled_length(evidence)
    explained = length_share(evidence)
    if diagnosis is not None or (explained is None and measured.sampled_tokens is not None):
        return diagnosis
    if explained is None:
        return Missing(f"lengths and margins of {LENGTH_ROWS} steps with responses of different length, or samples")
    if explained.all_pairs <= LENGTH_R2 or explained.as_labelled <= LENGTH_TREND:
        return None
    if (evidence.end("margin") or 0.0) - (evidence.start("margin") or 0.0) < MARGIN_RISE:
        return None  # nothing was learned, from length or otherwise
    side = "longer" if explained.slope > 0 else "shorter"
    return Diagnosis(
        "length_exploitation",
        "warning",
        {
            "explained_share": explained.all_pairs,
            "explained_as_labelled": explained.as_labelled,
            "margin_per_token": explained.slope,
        },
        f"difference in length explains more than {LENGTH_R2:.0%} of the margin, and more than {LENGTH_TREND:.0%} of "
        "how it varies between steps; and the margin rose",
        f"The difference in length explains {explained.all_pairs:.0%} of the margin ({explained.slope:+.3f} a token): "
        f"the policy prefers what is {side}.",
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


class LengthShare(NamedTuple):
    """How much of the margin the difference in length explains, R^2, and the margin that a token is worth.

    Attributes:
      all_pairs: Over pairs taken either way round, so that both means are 0 and the regression has no constant.
      as_labelled: Over pairs with the chosen response first.
      slope: Margin a token, from `all_pairs`.
    """

    all_pairs: float
    as_labelled: float
    slope: float


def length_share(evidence: Evidence) -> LengthShare | None:
    """The regression of margin on length difference over the later half of training; None without the figures.

    Rows hold means over a step's pairs. Pairs meet in steps at random, so a covariance of pairs is that of the steps'
    means times their number of pairs, once the trend in time is taken out; with the means it gives the pairs' second
    moments. `as_labelled` alone would miss much: where length decides a label, a short response is chosen only when
    much else speaks for it, which hides the slope among chosen responses.
    """
    names = ("margin", "chosen_tokens", "rejected_tokens", "pairs")
    rows = [row for row in evidence.train if all(is_number(row.get(name)) for name in names)]
    later = np.array([[row[name] for name in names] for row in rows[len(rows) // 2 :]], np.float64).reshape(-1, 4)
    later = later[np.isfinite(later).all(axis=1)]
    if len(later) < LENGTH_ROWS // 2:
        return None
    time = np.stack([np.ones(len(later)), np.arange(len(later))], axis=1)
    values = np.stack([later[:, 0], later[:, 1] - later[:, 2]], axis=1)
    rest = values - time @ np.linalg.lstsq(time, values)[0]
    if rest[:, 1].std() < 1e-6 or rest[:, 0].std() < 1e-12:
        return None
    among = rest.T @ rest / (len(rest) - 2) * float(np.median(np.diff(later[:, 3])))
    moments = among + np.outer(values.mean(axis=0), values.mean(axis=0))
    shares = [float(own[0, 1] ** 2 / (own[0, 0] * own[1, 1])) for own in (moments, among)]
    return LengthShare(*shares, slope=float(moments[0, 1] / moments[1, 1]))

"""Coverage: the policy puts its probability on responses that are in no pair."""

from __future__ import annotations

from preftree.evaluate.checks.evidence import MIN_ROWS, Diagnosis, Evidence, Missing, lost_share

LEFT_SHARE = 3.0
"""Share of their cost that chosen and rejected responses both lose where probability has left the pairs.

The cost is in nats under the reference, as for DISPLACED_SHARE. It is higher than that: a response that lost twice its
cost was displaced, while the pairs may still hold most of the probability.
"""

EFFECTIVE_SHARE = 0.005
"""Effective sample size of policy / reference, as a share of the reference samples; about exp(-KL) or less.

Healthy runs had .02 or more, beta .01 had .0004 to .0022.
"""


def coverage(evidence: Evidence) -> Diagnosis | Missing | None:
    """Look for a policy outside the data, by its samples or by the log-probs of the pairs."""
    share = evidence.measured.effective_share
    lost = [lost_share(evidence, side) for side in ("chosen", "rejected")]
    advice = (
        "Sample from the policy and have those responses compared (a new round of pairs); raise beta; stop earlier."
    )
    if share is not None and share < EFFECTIVE_SHARE:
        # unseen_mass is no criterion: nearly all long texts that the reference itself writes are in no pair.
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
        f"chosen and rejected responses both lost more than {LEFT_SHARE:.0%} of the nats they cost under the "
        "reference, with their whole intervals",
        f"Chosen and rejected responses are both far less likely than before training: they lost {chosen:.1f} and "
        f"{rejected:.1f} times the nats they cost under the reference. Probability went to responses that are in no "
        "pair.",
        advice,
    )

"""Likelihood displacement: chosen responses become less likely while the margin rises."""

from __future__ import annotations

from preftree.evaluate.checks.evidence import MARGIN_RISE, MIN_ROWS, Diagnosis, Evidence, Missing, lost_share

DISPLACED_SHARE = 1.0
"""Nats that chosen responses lost, over the nats they cost under the reference; at 1 their cost has doubled.

A share, since nats grow with length and with the entropy of the language. Some loss is expected: pairs are drawn from
the reference, and the mean of log policy / reference over its samples is below zero for any other policy. Healthy runs
lost up to .39 (2.7 nats, 0.8 a token, at KL 2.6 and twice the reward), beta .01 lost 8 to 11 (57 to 78 nats).
"""


def displacement(evidence: Evidence) -> Diagnosis | Missing | None:
    """Compare what chosen responses lost with the rise of the margin (arXiv:2410.08847)."""
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
        f"{-rejected:.1f}), {lost:.0%} of what they cost under the reference: the policy moves away from both, "
        "towards responses that are in no pair.",
        "Raise beta or lower lr; train fewer steps; fine-tune on the chosen responses first; look at samples.",
    )

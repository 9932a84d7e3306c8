"""Likelihood displacement: chosen responses become less likely while the margin rises."""

from __future__ import annotations

from preftree.evaluate.checks.evidence import (
    MARGIN_RISE,
    MIN_ROWS,
    WINDOW_SHARE,
    Diagnosis,
    Evidence,
    Missing,
    lost_share,
)

DISPLACED_SHARE = 1.0
"""Nats that chosen responses lost, over the nats they cost under the reference; at 1 their cost has doubled.

A share, since nats grow with length and with the entropy of the language. Some loss is expected: pairs are drawn from
the reference, and the mean of log policy / reference over its samples is below zero for any other policy. Healthy runs
lost up to .39 (2.7 nats, 0.8 a token, at KL 2.6 and twice the reward), beta .01 lost 8 to 11 (57 to 78 nats).
"""

LOST_A_TOKEN = 0.5
"""Nats a token that chosen responses lost, at which each token is 1.6 times less likely than it was.

A long response costs hundreds of nats, and one that lost nearly all of them is as good as never written.
"""

LOST_NATS = 20.0
"""Nats below which a loss by token is that of a short response, and its share decides."""


def displacement(evidence: Evidence) -> Diagnosis | Missing | None:
    """Compare what chosen responses lost with the rise of the margin (arXiv:2410.08847)."""
    share, rise = lost_share(evidence, "chosen"), evidence.change("margin", 0, 1 - WINDOW_SHARE, WINDOW_SHARE)
    ratio, tokens = evidence.final("chosen_logratio"), evidence.last("chosen_tokens")
    if share is None or rise is None or ratio is None:
        return Missing(f"chosen_logratio with its interval, chosen_logps and margin of at least {MIN_ROWS} steps")
    a_token = -ratio.high / tokens if tokens else 0.0
    by_token = a_token > LOST_A_TOKEN and -ratio.high > LOST_NATS
    if (share <= DISPLACED_SHARE and not by_token) or rise.low < MARGIN_RISE:
        return None
    chosen, rejected = ratio.value, evidence.last("rejected_logratio") or 0.0
    of_cost = f"{share:.0%} of what they cost under the reference"
    return Diagnosis(
        "displacement",
        "warning",
        {
            "chosen_logratio": chosen,
            "rejected_logratio": rejected,
            "lost_share": share,
            "lost_a_token": a_token,
            "margin_rise": rise.value,
        },
        f"chosen responses lost more than {DISPLACED_SHARE:.0%} of the nats they cost under the reference, or more "
        f"than {LOST_A_TOKEN:g} nats a token and {LOST_NATS:g} in all, with the whole interval, while the margin rose "
        f"by {MARGIN_RISE:g} or more",
        f"The margin rose by {rise.value:.2f}, yet chosen responses lost {-chosen:.1f} nats (rejected ones "
        f"{-rejected:.1f}), {of_cost if share > DISPLACED_SHARE else f'{a_token:.2f} a token'}: the policy moves away "
        "from both, towards responses that are in no pair.",
        "Raise beta or lower lr; train fewer steps; fine-tune on the chosen responses first; look at samples.",
    )

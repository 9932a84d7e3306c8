"""The rewards that losses imply, detached: what accuracy and margin are counted with.

Each is called with the inputs and options of a loss by name, and takes what it needs. Where a loss is derived from a
reward per response, that reward is meant; see docs/losses.md for those that have none of their own.
"""

from __future__ import annotations

from typing import Any

from preftree.losses.inputs import PairLogps, PairValues
from preftree.losses.pairs import logratios


def scaled_logratios(policy: PairLogps, ref: PairLogps, *, beta: float = 1.0, **_: Any) -> PairValues:
    """beta * logratio of both sides: DPO's reward, in summed nats; beta is 1 for a loss that has none."""
    ratios = logratios(policy, ref)
    return PairValues(*(beta * side.detach() for side in ratios))

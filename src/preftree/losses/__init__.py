"""Losses of preference learning as plain functions, with their registry, their metrics and the global mean."""

from typing import Any

from preftree.losses.mean import mean_part, weighted_means
from preftree.losses.metrics import (
    by_label,
    columns_of,
    list_metrics,
    metrics_of,
    pair_metrics,
    response_metrics,
    with_gradient,
)
from preftree.losses.quantities import delta, implicit_reward, logratios, pair_up
from preftree.losses.registry import LOSSES, REWARD_LOSSES, bind, find
from preftree.losses.sft import sft  # otherwise the name would be that of the file
from preftree.losses.types import (
    BoundLoss,
    ListSums,
    LossSpec,
    PairSums,
    PairTokens,
    PairValues,
    ResponseSums,
    TokenLogps,
)

__all__ = [
    "LOSSES",
    "REWARD_LOSSES",
    "BoundLoss",
    "ListSums",
    "LossSpec",
    "PairSums",
    "PairTokens",
    "PairValues",
    "ResponseSums",
    "TokenLogps",
    "bind",
    "by_label",
    "columns_of",
    "delta",
    "find",
    "implicit_reward",
    "list_metrics",
    "logratios",
    "mean_part",
    "metrics_of",
    "pair_metrics",
    "pair_up",
    "response_metrics",
    "sft",
    "weighted_means",
    "with_gradient",
]


def __getattr__(name: str) -> Any:
    """A loss of the table by its name: `preftree.losses.dpo`."""
    if name in LOSSES:
        return LOSSES[name].function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *LOSSES]

"""Losses of preference learning as plain functions, their table, their metrics and the one mean."""

from preftree.losses.inputs import PairLogps, PairValues
from preftree.losses.likelihood import sft
from preftree.losses.logistic import cdpo, dpo
from preftree.losses.mean import WeightedSums, mean_part, weigh
from preftree.losses.metrics import by_label, columns_of, list_metrics, pair_metrics, response_metrics
from preftree.losses.pairs import delta, implicit_reward, logratios, pair_up
from preftree.losses.squared import ipo, ipo_sum
from preftree.losses.table import LOSSES, BoundLoss, LossSpec, bind, find, needs_reference, unit_of

__all__ = [
    "LOSSES",
    "BoundLoss",
    "LossSpec",
    "PairLogps",
    "PairValues",
    "WeightedSums",
    "bind",
    "by_label",
    "cdpo",
    "columns_of",
    "delta",
    "dpo",
    "find",
    "implicit_reward",
    "ipo",
    "ipo_sum",
    "list_metrics",
    "logratios",
    "mean_part",
    "needs_reference",
    "pair_metrics",
    "pair_up",
    "response_metrics",
    "sft",
    "unit_of",
    "weigh",
]

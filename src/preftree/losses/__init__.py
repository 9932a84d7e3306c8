"""Losses of preference learning as plain functions, their table, their metrics and the one mean."""

from preftree.losses.inputs import PairLogps, PairValues
from preftree.losses.likelihood import sft
from preftree.losses.logistic import cdpo, dpo
from preftree.losses.mean import WeightedSums, mean_part, weigh
from preftree.losses.metrics import pair_metrics
from preftree.losses.pairs import delta, implicit_reward, logratios, pair_up
from preftree.losses.squared import ipo, ipo_sum
from preftree.losses.table import LOSSES, BoundLoss, LossSpec, bind

__all__ = [
    "LOSSES",
    "BoundLoss",
    "LossSpec",
    "PairLogps",
    "PairValues",
    "WeightedSums",
    "bind",
    "cdpo",
    "delta",
    "dpo",
    "implicit_reward",
    "ipo",
    "ipo_sum",
    "logratios",
    "mean_part",
    "pair_metrics",
    "pair_up",
    "sft",
    "weigh",
]

"""Losses of preference learning as plain functions, with their registry, their metrics and the global mean."""

from preftree.losses.lists import lipo, plackett_luce, rrhf
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
from preftree.losses.pair.anchored import apo_down, apo_zero, bco_pair, iterative_rpo, nca, rpo
from preftree.losses.pair.divergence import chi_po, f_dpo, tdpo1, tdpo2
from preftree.losses.pair.logistic import cdpo, discopop, dpo, dpop, exo, ln_dpo, robust
from preftree.losses.pair.margin import gpo, hinge, slic
from preftree.losses.pair.offsets import constrained_dpo, modpo, odpo, r_dpo
from preftree.losses.pair.squared import cal_dpo, ipo, ipo_sum, sppo, sppo_soft
from preftree.losses.pair.stepwise import aot, aot_unpaired, beta_dpo, kto_pair
from preftree.losses.pair.ties import davidson, rao_kupper
from preftree.losses.pair.token import ld_dpo, wpo, wpo_clipped
from preftree.losses.pair.unreferenced import alphapo, cpo, orpo, reference_free, simpo, unlikelihood
from preftree.losses.quantities import delta, implicit_reward, logratios, pair_up
from preftree.losses.registry import LOSSES, REWARD_LOSSES, bind, find
from preftree.losses.sft import sft
from preftree.losses.single import apo_zero_unpaired, bco, kto
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
    "alphapo",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "apo_zero_unpaired",
    "bco",
    "bco_pair",
    "beta_dpo",
    "bind",
    "by_label",
    "cal_dpo",
    "cdpo",
    "chi_po",
    "columns_of",
    "constrained_dpo",
    "cpo",
    "davidson",
    "delta",
    "discopop",
    "dpo",
    "dpop",
    "exo",
    "f_dpo",
    "find",
    "gpo",
    "hinge",
    "implicit_reward",
    "ipo",
    "ipo_sum",
    "iterative_rpo",
    "kto",
    "kto_pair",
    "ld_dpo",
    "lipo",
    "list_metrics",
    "ln_dpo",
    "logratios",
    "mean_part",
    "metrics_of",
    "modpo",
    "nca",
    "odpo",
    "orpo",
    "pair_metrics",
    "pair_up",
    "plackett_luce",
    "r_dpo",
    "rao_kupper",
    "reference_free",
    "response_metrics",
    "robust",
    "rpo",
    "rrhf",
    "sft",
    "simpo",
    "slic",
    "sppo",
    "sppo_soft",
    "tdpo1",
    "tdpo2",
    "unlikelihood",
    "weighted_means",
    "with_gradient",
    "wpo",
    "wpo_clipped",
]

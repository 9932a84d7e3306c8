"""Every loss by name, and how a name with raw options becomes a function of its inputs.

A loss is a plain function: inputs before the `*`, options after it. What it needs, what may be set and where it comes
from is read from its signature and its docstring; a row adds what neither can say.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from preftree.losses import at_reference as at
from preftree.losses import rewards
from preftree.losses.lists import lipo, plackett_luce, rrhf
from preftree.losses.options import check_options
from preftree.losses.pair.anchored import apo_down, apo_zero, bco_pair, iterative_rpo, nca, rpo
from preftree.losses.pair.divergence import chi_po, f_dpo, tdpo1, tdpo2
from preftree.losses.pair.logistic import cdpo, discopop, dpo, dpop, exo, ln_dpo, robust
from preftree.losses.pair.margin import gpo, hinge, slic
from preftree.losses.pair.offsets import advance_multiplier, constrained_dpo, modpo, odpo, r_dpo
from preftree.losses.pair.squared import cal_dpo, ipo, ipo_sum, sppo, sppo_soft
from preftree.losses.pair.stepwise import advance_gap, aot, aot_unpaired, beta_dpo, kto_pair
from preftree.losses.pair.ties import davidson, rao_kupper
from preftree.losses.pair.token import ld_dpo, wpo, wpo_clipped
from preftree.losses.pair.unreferenced import alphapo, cpo, orpo, reference_free, simpo, unlikelihood
from preftree.losses.sft import sft
from preftree.losses.single import advance_reward_mean, apo_zero_unpaired, bco, kto
from preftree.losses.spec import BoundLoss, LossSpec, inputs_of, needs_reference, options_of, unit_of

__all__ = [
    "ELSEWHERE",
    "LOSSES",
    "BoundLoss",
    "LossSpec",
    "bind",
    "find",
    "inputs_of",
    "name_of",
    "needs_reference",
    "options_of",
    "unit_of",
]


LOSSES: dict[str, LossSpec] = {
    "dpo": LossSpec(dpo, "example", at.ln_2, rewards.scaled_logratios, trl=("sigmoid",)),
    "cdpo": LossSpec(cdpo, "example", at.ln_2, rewards.scaled_logratios),
    "robust": LossSpec(robust, "example", at.ln_2, rewards.scaled_logratios, trl=("robust",)),
    "ipo": LossSpec(ipo, "example", at.ipo, rewards.scaled_logratios, trl=("ipo",)),
    "ipo_sum": LossSpec(ipo_sum, "example", at.ipo, rewards.scaled_logratios),
    "hinge": LossSpec(hinge, "example", at.one, rewards.scaled_logratios, trl=("hinge",)),
    "slic": LossSpec(slic, "example", None, rewards.logps),
    "kto": LossSpec(kto, "step", at.kto, rewards.of_responses, trl=("kto",)),
    "kto_pair": LossSpec(kto_pair, "step", at.half, rewards.scaled_logratios),
    "bco": LossSpec(
        bco,
        "step",
        at.ln_2,
        rewards.of_responses,
        initial_state={"reward_mean": 0.0, "num_responses": 0.0},
        advance=advance_reward_mean,
    ),
    "bco_pair": LossSpec(bco_pair, "example", at.two_ln_2, rewards.scaled_logratios, trl=("bco_pair",)),
    "orpo": LossSpec(orpo, "example", None, rewards.odds_rewards),
    "simpo": LossSpec(simpo, "example", None, rewards.scaled_mean_logps, trl=("simpo",)),
    "cpo": LossSpec(cpo, "example", None, rewards.logps),
    "alphapo": LossSpec(alphapo, "example", None, rewards.bent_mean_logps, trl=("alphapo",)),
    "rrhf": LossSpec(rrhf, "example", None, rewards.of_lists_alone),
    "apo_zero": LossSpec(apo_zero, "example", at.one, rewards.scaled_logratios, trl=("apo_zero",)),
    "apo_zero_unpaired": LossSpec(
        apo_zero_unpaired, "example", at.half, rewards.of_responses, trl=("apo_zero_unpaired",)
    ),
    "apo_down": LossSpec(apo_down, "example", at.one, rewards.scaled_logratios, trl=("apo_down",)),
    "dpop": LossSpec(dpop, "example", at.ln_2, rewards.scaled_logratios),
    "sppo": LossSpec(sppo, "example", at.sppo, rewards.scaled_logratios, trl=("sppo_hard",)),
    "sppo_soft": LossSpec(sppo_soft, "example", None, rewards.scaled_logratios),
    "nca": LossSpec(nca, "example", at.two_ln_2, rewards.scaled_logratios, trl=("nca_pair",)),
    "exo": LossSpec(exo, "example", at.exo, rewards.scaled_logratios, trl=("exo_pair",)),
    "f_dpo": LossSpec(f_dpo, "example", at.ln_2, rewards.divergence_rewards),
    "chi_po": LossSpec(chi_po, "example", at.ln_2, rewards.mixed_rewards),
    "tdpo1": LossSpec(tdpo1, "example", at.ln_2, rewards.scaled_logratios),
    "tdpo2": LossSpec(tdpo2, "example", at.ln_2, rewards.scaled_logratios),
    "ld_dpo": LossSpec(ld_dpo, "example", at.ln_2, rewards.desensitised_rewards),
    "r_dpo": LossSpec(r_dpo, "example", None, rewards.offset_rewards),
    "ln_dpo": LossSpec(ln_dpo, "example", at.ln_2, rewards.mean_logratios, trl=("sigmoid_norm",)),
    "wpo": LossSpec(wpo, "example", None, rewards.scaled_logratios),
    "wpo_clipped": LossSpec(wpo_clipped, "example", None, rewards.scaled_logratios),
    "aot": LossSpec(aot, "step", at.ln_2, rewards.scaled_logratios, trl=("aot",)),
    "aot_unpaired": LossSpec(aot_unpaired, "step", at.ln_2, rewards.scaled_logratios, trl=("aot_unpaired",)),
    "rpo": LossSpec(rpo, "example", None, rewards.scaled_logratios),
    "iterative_rpo": LossSpec(iterative_rpo, "example", None, rewards.scaled_logratios),
    "modpo": LossSpec(modpo, "example", None, rewards.scaled_logratios),
    "odpo": LossSpec(odpo, "example", None, rewards.scaled_logratios),
    "gpo": LossSpec(gpo, "example", at.gpo, rewards.scaled_logratios),
    "beta_dpo": LossSpec(
        beta_dpo,
        "step",
        None,
        rewards.scaled_logratios,
        initial_state={"mean": 0.0, "std": 0.0},
        advance=advance_gap,
    ),
    "plackett_luce": LossSpec(plackett_luce, "example", None, rewards.of_lists),
    "lipo": LossSpec(lipo, "example", None, rewards.of_lists),
    "rao_kupper": LossSpec(rao_kupper, "example", None, rewards.scaled_logratios),
    "davidson": LossSpec(davidson, "example", None, rewards.scaled_logratios),
    "cal_dpo": LossSpec(cal_dpo, "example", at.cal_dpo, rewards.plain_logratios),
    "discopop": LossSpec(discopop, "example", at.discopop, rewards.scaled_logratios, trl=("discopop",)),
    "unlikelihood": LossSpec(unlikelihood, "example", None, rewards.logps),
    "reference_free": LossSpec(reference_free, "example", None, rewards.logps),
    "constrained_dpo": LossSpec(
        constrained_dpo,
        "example",
        None,
        rewards.scaled_logratios,
        initial_state={"multiplier": 0.0, "cost": 0.0},
        advance=advance_multiplier,
    ),
    "sft": LossSpec(sft, "example", None, None, trl=("sft",)),
}

ELSEWHERE = {
    "tr_dpo": "'tr_dpo' is dpo with a reference that follows the policy: set loss=dpo and reference.sync_every",
    "step_dpo": "'step_dpo' is dpo on single steps of a solution: set loss=dpo and give pairs whose prompt holds the "
    "right steps so far, and whose responses are the next step, right and wrong",
}
"""Methods that are not losses, and where they are."""


def name_of(name: str) -> str:
    """The name of a loss in the table, from it or from what TRL calls the loss.

    Raises:
      ValueError: no loss has this name; the message names the nearest, or says where the method is.
    """
    if name in LOSSES:
        return name
    if name in ELSEWHERE:
        raise ValueError(ELSEWHERE[name])
    aliases = {alias: row for row, spec in LOSSES.items() for alias in spec.trl}
    if name not in aliases:
        close = difflib.get_close_matches(name, [*LOSSES, *aliases], 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}{hint}")
    return aliases[name]


def find(name: str) -> LossSpec:
    """The row of a loss, by its name or by TRL's.

    Raises:
      ValueError: as `name_of`.
    """
    return LOSSES[name_of(name)]


def bind(name: str, options: Mapping[str, object]) -> BoundLoss:
    """A loss by name, with its options checked against its signature.

    Args:
      name: A key of LOSSES, or TRL's name for one.
      options: Raw option values, as a configuration holds them; what is missing takes the default of the signature.
    Raises:
      ValueError: unknown loss; an option that the loss does not take, or that is not allowed.
    """
    name = name_of(name)
    known = options_of(LOSSES[name])
    for option in options:
        if option not in known:
            own = ", ".join(f"{key} ({value.allowed})" for key, value in known.items()) or "none"
            close = difflib.get_close_matches(option, known, 1)
            others = [other for other, row in LOSSES.items() if option in options_of(row)]
            hint = f"; did you mean {close[0]!r}?" if close else ""
            hint += f"; losses that take it: {', '.join(others)}" if others else ""
            raise ValueError(f"loss {name!r} does not take {option!r}, its options are: {own}{hint}")
    return BoundLoss(name, LOSSES[name], check_options(known, options))

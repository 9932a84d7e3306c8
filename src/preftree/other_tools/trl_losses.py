"""TRL's losses as ours: names, options, and what has no counterpart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preftree.errors import ConfigError

DPO_LOSSES = {
    "sigmoid": "dpo",
    "hinge": "hinge",
    "ipo": "ipo",
    "exo_pair": "exo",
    "nca_pair": "nca",
    "robust": "robust",
    "bco_pair": "bco_pair",
    "sppo_hard": "sppo",
    "aot": "aot",
    "aot_unpaired": "aot_unpaired",
    "apo_zero": "apo_zero",
    "apo_down": "apo_down",
    "discopop": "discopop",
    "sigmoid_norm": "ln_dpo",
}
"""Our loss by `loss_type` of TRL's DPOConfig; `sft` is a part of a sum alone."""

_SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")


def dpo_loss(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of our loss, each `{name, weight, ...}`, that TRL's DPO loss is.

    Args:
      fields: `loss_type` (a list), `loss_weights`, `beta`, `label_smoothing`, `ld_alpha`, `f_divergence_type`,
        `f_alpha_divergence_coef`, `use_weighting`, `discopop_tau`, as in TRL's DPOConfig.
    Raises:
      ConfigError: a loss, or a combination, that has no counterpart.
    """
    names: Sequence[str] = fields["loss_type"]
    weights = fields["loss_weights"] or [1.0] * len(names)
    if len(weights) != len(names):
        raise ConfigError(f"loss_weights has {len(weights)} weights for {len(names)} losses; give one for each")
    special = _special(fields)
    if special is not None and list(names) != ["sigmoid"]:
        raise ConfigError(
            f"{special} goes with loss_type='sigmoid' alone here, got {', '.join(names)}; `preftree losses` lists what "
            "there is"
        )
    if fields["label_smoothing"] and not any(name in _SMOOTHED for name in names):
        raise ConfigError(
            f"label_smoothing={fields['label_smoothing']:g} is not read by loss_type={', '.join(names)}; for DPO with "
            "flipped labels use loss_type='robust', or preftree.dpo(loss='cdpo')"
        )
    return [
        {"name": _name(name, fields), "weight": float(weight), **_options(name, fields)}
        for name, weight in zip(names, weights, strict=True)
    ]


def _special(fields: Mapping[str, Any]) -> str | None:
    """The option that makes another loss of DPO."""
    named = {
        "ld_alpha": fields["ld_alpha"] is not None,
        "f_divergence_type": fields["f_divergence_type"] != "reverse_kl",
        "use_weighting": fields["use_weighting"],
    }
    asked = [name for name, is_set in named.items() if is_set]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} cannot be combined here; keep one")
    return asked[0] if asked else None


def _name(name: str, fields: Mapping[str, Any]) -> str:
    if special := _special(fields):
        return {"ld_alpha": "ld_dpo", "f_divergence_type": "f_dpo", "use_weighting": "wpo"}[special]
    if name == "sft":
        raise ConfigError(
            "loss_type='sft' is a mean over the tokens of a micro-batch in TRL, so it depends on how rows are batched; "
            "preftree.dpo(loss='iterative_rpo') is DPO with the likelihood of the chosen response per token"
        )
    if name not in DPO_LOSSES:
        raise ConfigError(f"loss_type={name!r} is none of TRL's, which are {', '.join(DPO_LOSSES)}, sft")
    return DPO_LOSSES[name]


def _options(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"beta": float(fields["beta"])}
    if name in _SMOOTHED:
        options["label_smoothing"] = float(fields["label_smoothing"])
    if name == "discopop":
        options["tau"] = float(fields["discopop_tau"])
    match _special(fields):
        case "ld_alpha":
            options["alpha"] = float(fields["ld_alpha"])
        case "f_divergence_type":
            options["divergence"] = fields["f_divergence_type"]
            if fields["f_divergence_type"] == "alpha_divergence":
                options["alpha"] = 1 - float(fields["f_alpha_divergence_coef"])
    return options


def kto_loss(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Our loss of TRL's KTOConfig: `loss_type`, `beta`, `desirable_weight`, `undesirable_weight`.

    Raises:
      ConfigError: TRL has no such loss, or weights that it does not read.
    """
    if fields["loss_type"] == "kto":
        weights = {name: float(fields[name]) for name in ("desirable_weight", "undesirable_weight")}
        return {"name": "kto", "beta": float(fields["beta"]), **weights}
    if fields["loss_type"] != "apo_zero_unpaired":
        raise ConfigError(f"loss_type={fields['loss_type']!r} must be kto or apo_zero_unpaired")
    for name in ("desirable_weight", "undesirable_weight"):
        if fields[name] != 1:
            raise ConfigError(
                f"{name}={fields[name]:g} has no counterpart with loss_type=apo_zero_unpaired; leave it 1"
            )
    return {"name": "apo_zero_unpaired", "beta": float(fields["beta"])}


def cpo_loss(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Our loss of TRL's CPOConfig: `loss_type`, `beta`, `cpo_alpha`, `simpo_gamma`, `alpha`, `label_smoothing`.

    Raises:
      ConfigError: a loss, or a combination, that has no counterpart.
    """
    name, beta, likelihood = fields["loss_type"], float(fields["beta"]), float(fields["cpo_alpha"])
    if fields["label_smoothing"]:
        raise ConfigError(f"label_smoothing={fields['label_smoothing']:g} has no counterpart in CPO here; leave it 0")
    if name == "sigmoid" and not fields["alpha"]:
        return {"name": "cpo", "beta": beta, "nll_weight": likelihood}
    if name == "simpo":
        gamma = {"beta": beta, "gamma": float(fields["simpo_gamma"])}
        if not fields["alpha"]:
            return (
                {"name": "cpo_simpo", **gamma, "nll_weight": likelihood} if likelihood else {"name": "simpo", **gamma}
            )
        if not likelihood:
            return {"name": "alphapo", **gamma, "alpha": float(fields["alpha"])}
    raise ConfigError(
        f"CPO with loss_type={name!r}, alpha={fields['alpha']:g} and cpo_alpha={likelihood:g} has no counterpart; "
        "there are sigmoid and simpo, and alpha with simpo and cpo_alpha=0"
    )

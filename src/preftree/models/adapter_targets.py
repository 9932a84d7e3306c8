"""Layers that an adapter changes: from names and patterns to those of peft.

peft takes the experts of a mixture, which transformers stores as one tensor, by the names of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from preftree.config.lora import LoraOptions
from preftree.errors import ConfigError

_MARKS = "*?["
_ADAPTED = (nn.Linear, Conv1D, nn.Embedding)


@dataclass(frozen=True, slots=True)
class LoraTargets:
    """What an adapter changes, in peft's words.

    Attributes:
      modules: Names of layers.
      parameters: Names of tensors.
      whole: Layers that are trained whole.
    """

    modules: list[str]
    parameters: list[str]
    whole: list[str]


def find_targets(model: PreTrainedModel, options: LoraOptions) -> LoraTargets:
    """The layers and tensors that the options name.

    Raises:
      ConfigError: no layer has a name that the options give, the LM head is one tensor with the embeddings, or experts
        cannot be adapted in this way.
    """
    modules = _targets(model, options.targets or "all-linear")
    parameters = _expert_targets(model, options)
    whole = list(options.modules_to_save or ())
    _refuse_tied(model, [*([] if isinstance(options.targets or "all-linear", str) else modules), *whole])
    if renamed := _renamed_by_peft(model):
        names = {name for entry in modules for name in _named(model, entry, _ADAPTED)}
        as_parameters = sorted(name for name in names if name.rpartition(".")[2] in renamed)
        if as_parameters and options.dora:
            raise ConfigError(
                f"lora.targets: peft takes {as_parameters[0]} for an expert, which DoRA cannot adapt; leave out "
                "lora.dora"
            )
        modules = sorted(names - set(as_parameters))
        parameters += [f"{name}.weight" for name in as_parameters]
    for name in whole:
        if not _named(model, name, nn.Module):
            raise ConfigError(
                f"lora.modules_to_save names {name!r}, and no layer of {type(model).__name__} has this name"
            )
    return LoraTargets(modules, parameters, whole)


def widest_rank(model: PreTrainedModel, targets: LoraTargets) -> int:
    """The largest rank of a matrix that an adapter changes: the smaller side of its widest layer."""
    modules = [module for entry in targets.modules for _, module in _fitting(model, entry)]
    sides = [_sides(module) for module in modules]
    parameters = dict(model.named_parameters())
    sides += [tuple(parameters[name].shape[-2:]) for name in targets.parameters if name in parameters]
    return max((min(pair) for pair in sides), default=1)


def _fitting(model: nn.Module, entry: str) -> list[tuple[str, nn.Module]]:
    return [(name, part) for name, part in model.named_modules() if isinstance(part, _ADAPTED) and fits(name, entry)]


def _sides(module: nn.Module) -> tuple[int, ...]:
    if isinstance(module, nn.Linear):  # the weight of a quantised one may be stored flat
        return module.in_features, module.out_features
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return tuple(weight.shape)


def all_linear(model: PreTrainedModel) -> list[str]:
    """Full names of the linear layers but the LM head; a class of an architecture may give more than a product."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if _is_linear(module) and module is not head and not type(module).__module__.startswith("transformers.models.")
    ]


def _targets(model: PreTrainedModel, wanted: str | Sequence[str]) -> list[str]:
    """Target names for peft: plain names as they are, patterns as the full names that match them.

    `all-linear` is a list of full names: peft's own reading takes the names of some mixtures for those of experts, and
    routers that give several tensors for plain layers.
    """
    if isinstance(wanted, str):
        return all_linear(model)
    targets: list[str] = []
    for entry in wanted:
        fitting = _named(model, entry, _ADAPTED)
        if not fitting and any(fits(name, entry) for name in _experts(model)):
            continue
        if not fitting:
            linear = {name.rpartition(".")[2] for name, part in model.named_modules() if _is_linear(part)}
            raise ConfigError(
                f"lora.targets names {entry!r}, and no linear layer of {type(model).__name__} has this name; there are "
                f"{', '.join(sorted(linear))}"
            )
        targets += fitting if any(mark in entry for mark in _MARKS) else [entry]
    return sorted(set(targets))


def _experts(model: nn.Module) -> list[str]:
    """Full names of the tensors that hold the experts of a mixture, one matrix an expert."""
    return [
        f"{name}.{parameter_name}"
        for name, module in model.named_modules()
        if "expert" in f"{name} {type(module).__name__}".lower()
        for parameter_name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and parameter.is_floating_point()
    ]


def _expert_targets(model: PreTrainedModel, options: LoraOptions) -> list[str]:
    """Full names of the experts that the options name.

    Raises:
      ConfigError: they cannot be adapted in this way.
    """
    wanted = options.targets or "all-linear"
    names = _experts(model)
    names = names if isinstance(wanted, str) else [n for n in names if any(fits(n, entry) for entry in wanted)]
    if names and options.dora:
        raise ConfigError(
            f"lora.targets={wanted}: DoRA cannot adapt experts that are one tensor, such as {names[0]}; leave out "
            "lora.dora, or name other layers in lora.targets"
        )
    return names


def _renamed_by_peft(model: PreTrainedModel) -> frozenset[str]:
    """Names of layers that peft takes for those of experts, and replaces, in mixtures that transformers 5 stores anew.

    Shared experts and dense layers have the same names, and would silently be left out: they are adapted by parameter.
    """
    from peft.utils import transformers_weight_conversion as conversion

    kind = getattr(conversion, "_MODEL_TO_CONVERSION_PATTERN", {}).get(model.config.model_type)
    return frozenset(getattr(conversion, "_MOE_TARGET_MODULE_MAPPING", {}).get(kind) or ())


def _named(model: nn.Module, entry: str, kinds: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and fits(name, entry)]


def fits(name: str, entry: str) -> bool:
    """Whether the full name of a layer is meant by a name or pattern of `lora.targets`."""
    if any(mark in entry for mark in _MARKS):
        return fnmatchcase(name, entry)
    return name == entry or name.endswith(f".{entry}")


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _refuse_tied(model: PreTrainedModel, entries: Sequence[str]) -> None:
    """Refuse an adapter of a tied LM head: merging it would change the input embeddings too."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    if ends[1] is None or getattr(ends[0], "weight", None) is not getattr(ends[1], "weight", None):
        return
    names = {name: module for name, module in model.named_modules(remove_duplicate=False) if module in ends}
    for entry in entries:
        if any(name == entry or name.endswith(f".{entry}") for name in names):
            raise ConfigError(
                f"lora: {entry!r} cannot be adapted, since {type(model).__name__} uses one tensor as LM head and as "
                "input embeddings; leave it out"
            )

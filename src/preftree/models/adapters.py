"""Adapters by peft, inside the model itself: layers are replaced in place, and the model keeps its class."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from preftree.config.lora import LoraOptions
from preftree.errors import ConfigError, ModelError
from preftree.models.adapter_folder import NAME, AdapterFolder

_MARKS = "*?["


def add_adapter(model: PreTrainedModel, options: LoraOptions, *, seed: int) -> None:
    """Put a fresh LoRA adapter into the model, and freeze everything else.

    The model's figures do not change yet: B is 0.

    Args:
      model: The model; changed in place.
      options: Options without open defaults.
      seed: Seed of A.
    Raises:
      ConfigError: no layer has a name that the options give, or the LM head is one tensor with the embeddings.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets = _targets(model, options.targets or "all-linear")
    whole = list(options.modules_to_save or ())
    _refuse_tied(model, [*([] if isinstance(targets, str) else targets), *whole])
    for name in whole:
        if not _named(model, name, nn.Module):
            raise ConfigError(
                f"lora.modules_to_save names {name!r}, and no layer of {type(model).__name__} has this name"
            )
    assert options.r is not None and options.alpha is not None
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=options.r,
        lora_alpha=int(options.alpha) if options.alpha.is_integer() else options.alpha,  # pyright: ignore[reportArgumentType]  # peft divides it
        lora_dropout=0.0,
        target_modules=targets,
        use_dora=bool(options.dora),
        use_rslora=bool(options.rslora),
        modules_to_save=whole or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []), _quiet():
        torch.manual_seed(seed)
        try:
            get_peft_model(model, config)
        except TypeError as error:  # raised for weights of a kind that peft does not support
            reason = str(error).splitlines()[0]
            raise ConfigError(f"peft cannot adapt weights of this kind ({reason}); choose another quantize=") from error
        except ValueError as error:
            raise ConfigError(f"lora.targets={options.targets}: {str(error).splitlines()[0]}") from error


def attach_adapter(model: PreTrainedModel, adapter: AdapterFolder, *, trained: bool = False) -> Any:
    """Put a stored adapter into its base model.

    Args:
      model: The base; changed in place.
      adapter: The adapter.
      trained: Whether it is trained further; everything else is then frozen.
    Returns:
      peft's wrapper of the model, which can merge the adapter or load another.
    Raises:
      ModelError: the adapter does not fit the model.
    """
    from peft import LoraConfig, PeftModel

    with _fitting(adapter), _quiet():
        config = LoraConfig.from_pretrained(str(adapter.path))
        assert isinstance(config, LoraConfig)  # declared as any kind of adapter's
        config.lora_dropout = 0.0
        device = str(model.device)
        return PeftModel.from_pretrained(model, str(adapter.path), NAME, trained, config, torch_device=device)


def attach_adapters(model: PreTrainedModel, adapters: Sequence[AdapterFolder]) -> None:
    """Put several stored adapters into one base model; the first is active until `use_adapter` selects another.

    Args:
      model: The base; changed in place.
      adapters: The adapters, at least one.
    Raises:
      ModelError: an adapter does not fit the model.
    """
    wrapped = attach_adapter(model, adapters[0])
    for index, adapter in enumerate(adapters[1:], 1):
        with _fitting(adapter), _quiet():
            wrapped.load_adapter(str(adapter.path), _name(index), torch_device=str(model.device))
    use_adapter(model, 0)


def use_adapter(model: PreTrainedModel, index: int) -> None:
    """Activate one of the adapters that `attach_adapters` loaded, and no other."""
    for layer in _layers(model):
        layer.set_adapter(_name(index))


def _name(index: int) -> str:
    return NAME if index == 0 else f"{NAME}-{index}"


def merge_adapter(model: PreTrainedModel, adapter: AdapterFolder) -> None:
    """Add a stored adapter's update to the weights of its base model, all of which can then be trained.

    Args:
      model: The base; changed in place.
      adapter: The adapter.
    Raises:
      ModelError: the adapter does not fit the model.
    """
    wrapped = attach_adapter(model, adapter)
    with torch.no_grad(), _quiet():
        wrapped.merge_and_unload()
    if hasattr(model, "peft_config"):
        del model.peft_config
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


@contextmanager
def _fitting(adapter: AdapterFolder) -> Iterator[None]:
    """Name the adapter in errors that peft raises."""
    try:
        yield
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"adapter '{adapter.path}' does not fit its base '{adapter.base}': {first}") from error


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Switch the adapter off while the context lasts; for forwards without gradient."""
    switches = [(module, module.disable_adapters) for module in _layers(model)]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for module, _ in switches:
        module.enable_adapters(False)
    try:
        yield
    finally:
        for module, was_off in switches:
            module.enable_adapters(not was_off)
        for parameter in trained:  # peft changes the flags of the layers that it switches
            parameter.requires_grad_(True)


def adapted_layers(model: nn.Module) -> list[str]:
    """Names of the layers that the adapter changes."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def has_targets(model: PreTrainedModel, wanted: str | Sequence[str]) -> bool:
    """Whether the model's adapter changes exactly the layers that `lora.targets` names."""
    tuned = adapted_layers(model)
    if isinstance(wanted, str):
        inside = tuple(f"{name}." for name in tuned)
        head = model.get_output_embeddings()
        linear = [name for name, module in model.named_modules() if _is_linear(module) and module is not head]
        return all(name in tuned or name.startswith(inside) for name in linear)
    fitting = [{name for name in tuned if _fits(name, entry)} for entry in wanted]
    return all(fitting) and set(tuned) == set().union(*fitting)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name: those of the adapter where there is one, else all."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def base_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Weights of the model under the adapter, by their names in the model without one."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if not any(part.startswith("lora_") or part == "modules_to_save" for part in parts):
            tensors[".".join(part for part in parts if part not in ("base_layer", "original_module"))] = value
    return tensors


def effective_weight(head: nn.Module) -> Float[Tensor, "V D"]:
    """The weight of a linear layer with its adapter's update, differentiable in the adapter.

    Raises:
      ModelError: the adapter changes the layer otherwise than by adding to its weight.
    """
    weight = head.weight
    is_tuned = hasattr(head, "lora_A") and hasattr(head, "get_delta_weight")
    if not is_tuned or head.disable_adapters or head.merged:
        return weight  # pyright: ignore[reportReturnType]  # Module attributes are untyped
    for name in head.active_adapters:  # pyright: ignore[reportGeneralTypeIssues]  # Module attributes are untyped
        if name in getattr(head, "lora_variant", {}):
            raise ModelError(
                "an adapter of the LM head must be plain LoRA; leave the head out of lora.targets, or dora"
            )
        if name in head.lora_A:  # pyright: ignore[reportOperatorIssue]
            weight = weight + head.get_delta_weight(name)  # pyright: ignore[reportCallIssue, reportOperatorIssue]
    return weight  # pyright: ignore[reportReturnType]


def _layers(model: nn.Module) -> list[Any]:
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]


def _targets(model: PreTrainedModel, wanted: str | Sequence[str]) -> str | list[str]:
    """Target names for peft: plain names as they are, patterns as the full names that match them."""
    if isinstance(wanted, str):
        return wanted
    targets: list[str] = []
    for entry in wanted:
        fitting = _named(model, entry, (nn.Linear, Conv1D, nn.Embedding))
        if not fitting:
            linear = {name.rpartition(".")[2] for name, part in model.named_modules() if _is_linear(part)}
            raise ConfigError(
                f"lora.targets names {entry!r}, and no linear layer of {type(model).__name__} has this name; there are "
                f"{', '.join(sorted(linear))}"
            )
        targets += fitting if any(mark in entry for mark in _MARKS) else [entry]
    return sorted(set(targets))


def _named(model: nn.Module, entry: str, kinds: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and _fits(name, entry)]


def _fits(name: str, entry: str) -> bool:
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without peft's warnings: of transformers' deprecated names, and of what the caller has chosen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

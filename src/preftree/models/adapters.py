"""Adapters through peft, inside the model itself: layers are replaced in place, the model keeps its class."""

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
    """Put a fresh LoRA adapter into the model, which is then the only thing in it that is trained.

    It changes nothing yet: B is 0.

    Args:
      model: Changed in place.
      options: With nothing left open.
      seed: Of A.
    Raises:
      ConfigError: no layer is called as asked, or the LM head is tied to the embeddings that would move with it.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets = _targets(model, options.targets or "all-linear")
    whole = list(options.modules_to_save or ())
    _refuse_tied(model, [*([] if isinstance(targets, str) else targets), *whole])
    for name in whole:
        if not _named(model, name, nn.Module):
            raise ConfigError(
                f"lora.modules_to_save names {name!r}, and no layer of {type(model).__name__} is called so"
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
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _quiet():
        torch.manual_seed(seed)
        try:
            get_peft_model(model, config)
        except TypeError as error:  # it says so of weights
            said = str(error).splitlines()[0]
            raise ConfigError(f"peft cannot adapt weights stored so ({said}); choose another quantize=") from error
        except ValueError as error:
            raise ConfigError(f"lora.targets={options.targets}: {str(error).splitlines()[0]}") from error


def attach_adapter(model: PreTrainedModel, adapter: AdapterFolder, *, trained: bool = False) -> None:
    """Put a stored adapter into its base model.

    Args:
      model: The base; changed in place.
      adapter: What to load.
      trained: Whether it is trained further; everything else is frozen then.
    Raises:
      ModelError: it does not fit the model.
    """
    _attach(model, adapter, trained)


def attach_adapters(model: PreTrainedModel, adapters: Sequence[AdapterFolder]) -> None:
    """Put several stored adapters into one base model; the first acts, until `use_adapter` says otherwise.

    Args:
      model: The base; changed in place.
      adapters: What to load, one at least.
    Raises:
      ModelError: one does not fit the model.
    """
    wrapped = _attach(model, adapters[0], trained=False)
    for place, adapter in enumerate(adapters[1:], 1):
        with _fitting(adapter), _quiet():
            wrapped.load_adapter(str(adapter.path), _name(place), torch_device=str(model.device))
    use_adapter(model, 0)


def use_adapter(model: PreTrainedModel, place: int) -> None:
    """Let the adapter act that stood at this place when `attach_adapters` loaded it, and no other."""
    for layer in _layers(model):
        layer.set_adapter(_name(place))


def _name(place: int) -> str:
    return NAME if place == 0 else f"{NAME}-{place}"


def merge_adapter(model: PreTrainedModel, adapter: AdapterFolder) -> None:
    """Add a stored adapter's update to the weights of its base model; all of them may be trained then.

    Args:
      model: The base; changed in place.
      adapter: What to merge.
    Raises:
      ModelError: it does not fit the model.
    """
    wrapped = _attach(model, adapter, trained=False)
    with torch.no_grad(), _quiet():
        wrapped.merge_and_unload()
    if hasattr(model, "peft_config"):
        del model.peft_config
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def _attach(model: PreTrainedModel, adapter: AdapterFolder, trained: bool) -> Any:
    from peft import LoraConfig, PeftModel

    with _fitting(adapter), _quiet():
        config = LoraConfig.from_pretrained(str(adapter.path))
        assert isinstance(config, LoraConfig)  # declared as any kind of adapter's
        config.lora_dropout = 0.0
        device = str(model.device)
        return PeftModel.from_pretrained(model, str(adapter.path), NAME, trained, config, torch_device=device)


@contextmanager
def _fitting(adapter: AdapterFolder) -> Iterator[None]:
    """Say which adapter does not fit, where peft raises."""
    try:
        yield
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"adapter '{adapter.path}' does not fit its base '{adapter.base}': {first}") from error


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """The model under the adapter, while the context lasts; for forwards without gradient."""
    switches = [(module, module.disable_adapters) for module in _layers(model)]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for module, _ in switches:
        module.enable_adapters(False)
    try:
        yield
    finally:
        for module, was_off in switches:
            module.enable_adapters(not was_off)
        for parameter in trained:  # peft sets the flags of what it switches
            parameter.requires_grad_(True)


def targeted(model: nn.Module) -> list[str]:
    """Names of the layers that the adapter changes."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def has_targets(model: PreTrainedModel, wanted: str | Sequence[str]) -> bool:
    """Whether the model's adapter changes just the layers that `lora.targets` names."""
    tuned = targeted(model)
    if isinstance(wanted, str):
        inside = tuple(f"{name}." for name in tuned)
        head = model.get_output_embeddings()
        linear = [name for name, module in model.named_modules() if _is_linear(module) and module is not head]
        return all(name in tuned or name.startswith(inside) for name in linear)
    fitting = [{name for name in tuned if _fits(name, entry)} for entry in wanted]
    return all(fitting) and set(tuned) == set().union(*fitting)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What training moves, by name: the adapter where there is one, else the whole model."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def base_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights under the adapter, by the names that they have without one."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if not any(part.startswith("lora_") or part == "modules_to_save" for part in parts):
            tensors[".".join(part for part in parts if part not in ("base_layer", "original_module"))] = value
    return tensors


def effective_weight(head: nn.Module) -> Float[Tensor, "V D"]:
    """The weight of a linear layer with its adapter's update, differentiable in the adapter.

    Raises:
      ModelError: the adapter changes the layer in a way that is no sum of weights.
    """
    weight = head.weight
    if not _is_tuned(head) or head.disable_adapters or head.merged:
        return weight  # pyright: ignore[reportReturnType]  # Module attributes are untyped
    for name in head.active_adapters:  # pyright: ignore[reportGeneralTypeIssues]  # Module attributes are untyped
        if name in getattr(head, "lora_variant", {}):
            raise ModelError(
                "an adapter of the LM head must be plain LoRA; leave the head out of lora.targets, or dora"
            )
        if name in head.lora_A:  # pyright: ignore[reportOperatorIssue]
            weight = weight + head.get_delta_weight(name)  # pyright: ignore[reportCallIssue, reportOperatorIssue]
    return weight  # pyright: ignore[reportReturnType]


def _is_tuned(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "get_delta_weight")


def _layers(model: nn.Module) -> list[Any]:
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]


def _targets(model: PreTrainedModel, wanted: str | Sequence[str]) -> str | list[str]:
    """What peft is told: plain names as they are, patterns as the whole names they stand for."""
    if isinstance(wanted, str):
        return wanted
    targets: list[str] = []
    for entry in wanted:
        fitting = _named(model, entry, (nn.Linear, Conv1D, nn.Embedding))
        if not fitting:
            linear = {name.rpartition(".")[2] for name, part in model.named_modules() if _is_linear(part)}
            raise ConfigError(
                f"lora.targets names {entry!r}, and no linear layer of {type(model).__name__} is called so; there are "
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
    """A merged LM head would take the input embeddings with it where both are one tensor."""
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
    """peft asks transformers for things by old names, and says what the caller has chosen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

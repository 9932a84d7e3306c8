"""Adapters by peft, inside the model itself: layers are replaced in place, and the model keeps its class."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from preftree.config.lora import LoraOptions
from preftree.errors import ConfigError, ModelError
from preftree.models.adapter_folder import (
    CONFIG,
    NAME,
    PREFIX,
    WEIGHTS,
    AdapterFolder,
    base_sample_of,
    sample_weights,
)
from preftree.models.adapter_targets import all_linear, find_targets, fits, widest_rank
from preftree.models.check_folder import read_header
from preftree.models.foreign import foreign

log = logging.getLogger("preftree")


def add_adapter(model: PreTrainedModel, options: LoraOptions, *, seed: int) -> None:
    """Put a fresh LoRA adapter into the model, and freeze everything else.

    The experts of a mixture that are stored as one tensor are adapted as parameters (peft's `target_parameters`).

    The model's figures do not change yet: B is 0.

    Args:
      model: The model; changed in place.
      options: Options without open defaults.
      seed: Seed of A.
    Raises:
      ConfigError: no layer has a name that the options give, or the LM head is one tensor with the embeddings.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets = find_targets(model, options)
    assert options.r is not None and options.alpha is not None
    widest = widest_rank(model, targets)
    if options.r > widest:
        raise ConfigError(
            f"lora.r must be at most {widest}, the rank of the largest layer that is adapted, got {options.r}: a "
            "higher one holds nothing more"
        )
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=options.r,
        lora_alpha=int(options.alpha) if options.alpha.is_integer() else options.alpha,  # pyright: ignore[reportArgumentType]  # peft divides it
        lora_dropout=0.0,
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        use_dora=bool(options.dora),
        use_rslora=bool(options.rslora),
        modules_to_save=targets.whole or None,
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

    _check_base(adapter)
    with _fitting(adapter), _quiet():
        config = LoraConfig.from_pretrained(str(adapter.path))
        assert isinstance(config, LoraConfig)  # declared as any kind of adapter's
        config.lora_dropout = 0.0
        device = str(model.device)
        wrapped = PeftModel.from_pretrained(model, str(adapter.path), NAME, trained, config, torch_device=device)
    _check_tensors(model, adapter, NAME)
    return wrapped


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
        _check_tensors(model, adapter, _name(index))
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
    with foreign(f"adapter '{adapter.path}' does not fit its base '{adapter.base}'"):
        yield


def _check_tensors(model: PreTrainedModel, adapter: AdapterFolder, name: str) -> None:
    """Compare an adapter's file with the tensors that the attached adapter has.

    peft leaves tensors that are missing at their start, where an adapter changes nothing, and ignores others.

    Raises:
      ModelError: some are missing, or belong to no layer.
    """
    from peft import get_peft_model_state_dict

    wanted = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    stored = {key.removeprefix(PREFIX) for key in read_header(adapter.path / WEIGHTS)}
    missing, beyond = sorted(wanted - stored), sorted(stored - wanted - set(base_tensors(model)))
    if missing or beyond:
        what = f"lacks {len(missing)} of them" if missing else f"has {len(beyond)} that belong to no layer"
        raise ModelError(
            f"adapter '{adapter.path}' does not fit its base '{adapter.base}': {len(wanted)} tensors are wanted, and "
            f"{WEIGHTS} {what}, such as {(missing or beyond)[0]}; give the model that it was trained on"
        )


def _check_base(adapter: AdapterFolder) -> None:
    """Compare the weights that an adapter was trained on with those of its base, as far as its file tells.

    Raises:
      ModelError: the base has tensors of the same shapes with other values.
    """
    trained_on, given = base_sample_of(adapter), sample_weights(adapter.base)
    if trained_on is None or given is None or trained_on == given:
        return
    if trained_on.partition(":")[0] == given.partition(":")[0]:
        raise ModelError(
            f"adapter '{adapter.path}' was trained on other weights than those of its base '{adapter.base}'; set "
            f"base_model_name_or_path in its {CONFIG} to the model that it was trained on"
        )
    log.warning(
        "adapter '%s': its base '%s' is stored in another form than the one that it was trained on, so whether the "
        "weights are the same is not known",
        adapter.path,
        adapter.base,
    )


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


def adapted_share(model: PreTrainedModel) -> float:
    """Share of the layers' weights that belong to adapted tensors; embeddings and LM head do not count."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = {id(getattr(end, "weight", None)) for end in (model.get_input_embeddings(), model.get_output_embeddings())}
    adapted: set[int] = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            base = module.get_base_layer()
            name = getattr(module, "parameter_name", "weight")
            adapted.add(id(getattr(base, name, None)))
    sizes = {
        id(value): value.numel()
        for name, value in model.named_parameters()
        if value.ndim >= 2 and id(value) not in ends and not set(name.split(".")) & {"lora_A", "lora_B"}
    }
    return sum(size for key, size in sizes.items() if key in adapted) / max(1, sum(sizes.values()))


def has_targets(model: PreTrainedModel, wanted: str | Sequence[str]) -> bool:
    """Whether the model's adapter changes exactly the layers that `lora.targets` names."""
    tuned = adapted_layers(model)
    if isinstance(wanted, str):
        inside = tuple(f"{name}." for name in tuned)
        return all(name in tuned or name.startswith(inside) for name in all_linear(model))
    fitting = [{name for name in tuned if fits(name, entry)} for entry in wanted]
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without peft's warnings: of transformers' deprecated names, and of what the caller has chosen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""Policy at the start of a run and its reference: model, adapter and digest of each.

model=             lora      policy                                 reference `start`
a model            no        that model                             itself
a model            yes       that model with a fresh adapter        the model, with the adapter off
an adapter folder  no        the base with the adapter merged       itself
an adapter folder  yes       the base with that adapter             itself, scored before the first step
an adapter folder  lora.new  the merged model, a fresh adapter      the merged model, with the fresh adapter off
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.config.dpo import DpoConfig
from preftree.config.load import AnyConfig
from preftree.config.lora import LoraOptions
from preftree.config.online import OnlineConfig, PpoConfig, RlooConfig
from preftree.config.read_with import require_read
from preftree.errors import ConfigError
from preftree.models.adapter_folder import AdapterFolder, adapter_names, find_adapter
from preftree.models.adapters import adapter_off, add_adapter, attach_adapter, has_targets, merge_adapter
from preftree.models.gguf.header import find_gguf
from preftree.models.load import load_base, load_tokenizer, remove_dropout
from preftree.reference.key import adapted_digest, weights_digest, weights_digest_of_model
from preftree.runtime.paths import cache_root
from preftree.runtime.ranks import Ranks
from preftree.scoring.scorer import Scorer


@dataclass(frozen=True, eq=False, slots=True)
class Policy:
    """The model that a run trains, before the first step.

    Attributes:
      scorer: Scorer of the model.
      weights: Digest of the weights that have an effect: a fresh adapter has none yet.
      base: Folder or hub id of the base model.
      base_weights: Digest of the base model.
      lora: Options of the trained adapter, all filled in; None where all weights are trained.
      incoming: The adapter that `model` names, if any.
      merged: Whether the incoming adapter is merged into the weights.
    """

    scorer: Scorer
    weights: str
    base: str
    base_weights: str
    lora: LoraOptions | None
    incoming: AdapterFolder | None
    merged: bool

    @property
    def is_fresh(self) -> bool:
        """Whether the trained adapter is new: without it the policy is the start model."""
        return self.lora is not None and (self.incoming is None or self.merged)

    @property
    def words(self) -> str:
        """Description in words."""
        start = self.base
        if self.incoming is not None:
            start += f" with adapter {self.incoming.path}" + (" merged into it" if self.merged else "")
        return f"{start}, under a new adapter" if self.is_fresh else start

    def others(self, model: str) -> dict[str, Path]:
        """Adapters of the folder that are not trained, by name, where one of several is trained further."""
        if self.incoming is None or self.merged:
            return {}
        top = Path(model).expanduser()
        folders = {name: top / name if (top / name).is_dir() else top for name in adapter_names(top)}
        return {name: folder for name, folder in folders.items() if folder != self.incoming.path}


@dataclass(frozen=True, eq=False, slots=True)
class ReferenceModel:
    """The model that the policy is compared with.

    Attributes:
      scorer: Its scorer.
      weights: Digest of the weights that have an effect.
      without_adapter: Whether the scorer's adapter must be disabled.
      is_start: Whether it equals the policy before the first step.
      words: Description in words.
    """

    scorer: Scorer
    weights: str
    without_adapter: bool
    is_start: bool
    words: str

    @contextmanager
    def active(self) -> Iterator[Scorer]:
        """Context in which the scorer computes the reference."""
        if not self.without_adapter:
            yield self.scorer
            return
        with adapter_off(self.scorer.model):
            yield self.scorer


def load_policy(config: AnyConfig, ranks: Ranks) -> Policy:
    """Load the model of a run in fp32 on this rank's device, and its adapter, new or stored.

    Raises:
      ModelError: it cannot be loaded.
      ConfigError: the options do not fit the model, or its adapter.
    """
    lora = config.lora
    incoming = find_adapter(config.model, lora.name if lora else None)
    words = f"a model folder that holds an adapter, and {config.model} holds none"
    require_read("lora.new", lora is not None and lora.new, incoming is not None, words)
    model = load_base(incoming or config.model, quantize=config.quantize, device=ranks.device)
    base = incoming.base if incoming else config.model
    base_weights = weights = digest_base(base, model, config)
    merged = incoming is not None and (lora is None or lora.new)
    if incoming is not None:
        if merged and config.quantize:
            raise ConfigError(
                f"lora.new=true merges adapter {incoming.path}, which cannot be done in {config.quantize} weights; "
                "merge it first with preftree export, or train it further"
            )
        (merge_adapter if merged else _train_further)(model, incoming)
        weights = _digest_adapted(base_weights, incoming, config, merged=merged)
    if lora is not None:
        if incoming is None or merged:
            lora = lora.filled()
            add_adapter(model, lora, seed=config.seed)
        else:
            lora = _options_of(lora, incoming, model)
    remove_dropout(model)
    return Policy(Scorer(model.eval(), precision=config.precision), weights, base, base_weights, lora, incoming, merged)


def find_reference(
    config: DpoConfig | OnlineConfig, policy: Policy, tokenizer: PreTrainedTokenizerBase, ranks: Ranks
) -> ReferenceModel:
    """The reference that the options name; a second model is loaded unless it is the policy's start.

    Raises:
      ConfigError: the other model has another vocabulary, or there is no base.
      ModelError: it cannot be loaded.
    """
    choice, bare = config.reference_place, "the model under the adapter"
    if choice == "start":
        start = policy.words.removesuffix(", under a new adapter")
        return ReferenceModel(policy.scorer, policy.weights, policy.is_fresh, True, f"start: {start}")
    if choice == "base":
        if policy.lora is None and policy.incoming is None:
            raise ConfigError(
                f"reference=base is the model under an adapter, and neither is model={config.model} an adapter nor is "
                "lora set; use reference=start"
            )
        words = f"base: {policy.base}, {bare}"
        if not policy.merged:
            return ReferenceModel(policy.scorer, policy.base_weights, True, policy.incoming is None, words)
        scorer, weights = load_frozen(policy.base, config, ranks)
        return ReferenceModel(scorer, weights, False, False, words)
    if load_tokenizer(choice).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"reference={choice} has another vocabulary than model={config.model}, so it cannot score the same tokens; "
            "give a model with the same tokenizer"
        )
    scorer, weights = load_frozen(choice, config, ranks)
    return ReferenceModel(scorer, weights, False, False, choice)


def find_live_reference(
    config: DpoConfig | OnlineConfig, policy: Policy, tokenizer: PreTrainedTokenizerBase, ranks: Ranks
) -> ReferenceModel:
    """The reference as a model that scores beside the policy: the policy without its adapter, or a second model.

    Raises:
      ConfigError: as `find_reference`; or an adapter is trained, and the reference is to follow it.
      ModelError: it cannot be loaded.
    """
    if config.reference_schedule is not None and policy.lora is not None:
        raise ConfigError(
            "reference.sync_every moves all weights of the reference, and lora trains an adapter alone; leave one out"
        )
    reference = find_reference(config, policy, tokenizer, ranks)
    if reference.scorer is policy.scorer and not reference.without_adapter:  # training changes the policy
        source = policy.incoming.path if policy.incoming else config.model
        scorer, _ = load_frozen(str(source), config, ranks, merged=policy.merged)
        reference = replace(reference, scorer=scorer)
    if reference.scorer is not policy.scorer:
        reference.scorer.requires_grad_(False)
    return reference


def load_frozen(name: str, config: AnyConfig, ranks: Ranks, *, merged: bool = False) -> tuple[Scorer, str]:
    """A frozen model, including its adapter (`merged`: in the weights), and its digest."""
    adapter = find_adapter(name)
    model = load_base(adapter or name, quantize=config.quantize, device=ranks.device)
    weights = digest_base(adapter.base if adapter else name, model, config)
    if adapter is not None:
        (merge_adapter if merged else attach_adapter)(model, adapter)
        remove_dropout(model)
        weights = _digest_adapted(weights, adapter, config, merged=merged)
    scorer = Scorer(model.eval(), precision=config.precision)
    if config.compile:
        scorer.compile_layers()
    return scorer, weights


def start_place(config: AnyConfig) -> str:
    """Folder or hub id of the model that a run's KL refers to: its reference, or its start model without one."""
    named = config.reference_place if isinstance(config, DpoConfig | PpoConfig | RlooConfig) else "start"
    adapter = find_adapter(config.model, config.lora.name if config.lora else None)
    if named in ("start", "none"):
        return str(adapter.path) if adapter else config.model
    if named == "base":
        return adapter.base if adapter else config.model
    return named


def _train_further(model: PreTrainedModel, adapter: AdapterFolder) -> None:
    attach_adapter(model, adapter, trained=True)


def _options_of(lora: LoraOptions, adapter: AdapterFolder, model: PreTrainedModel) -> LoraOptions:
    """The options of a stored adapter; those that are set must agree with it."""
    stored = adapter.config
    options: dict[str, Any] = {
        "r": int(stored["r"]),
        "alpha": float(stored["lora_alpha"]),
        "dora": bool(stored.get("use_dora")),
        "rslora": bool(stored.get("use_rslora")),
        "modules_to_save": sorted(stored.get("modules_to_save") or []) or None,
    }
    wrong = [name for name, value in options.items() if getattr(lora, name) not in (None, value)]
    if lora.targets is not None and not has_targets(model, lora.targets):
        wrong.append("targets")
    if wrong:
        has = f", it is {options[wrong[0]]}" if wrong[0] in options else ""
        raise ConfigError(
            f"lora.{wrong[0]}={getattr(lora, wrong[0])} is not that of adapter {adapter.path}{has}: leave it out to "
            "train the adapter further, or set lora.new=true to merge it and train a new one"
        )
    targets = stored.get("target_modules")
    return lora.model_copy(update=options | {"targets": sorted(targets) if isinstance(targets, list) else lora.targets})


def digest_base(name: str, model: PreTrainedModel, config: AnyConfig) -> str:
    """Digest of the weights of the base model `name`, loaded as `model`; files are hashed once."""
    if gguf := find_gguf(name):
        return weights_digest(gguf, memo=_memo(config))
    folder = Path(name).expanduser()
    if any(folder.glob("*.safetensors")):
        return weights_digest(folder, memo=_memo(config))
    return weights_digest_of_model(model)


def _digest_adapted(base: str, adapter: AdapterFolder, config: AnyConfig, *, merged: bool) -> str:
    return adapted_digest(base, adapter.path, merged=merged, memo=_memo(config))


def _memo(config: AnyConfig) -> Path:
    return Path(config.cache or cache_root())

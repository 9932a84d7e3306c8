"""The policy as a run begins, and the reference that it is compared with: what each of them really is, and its digest.

model=             lora      the policy is                          its `start` is
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
from preftree.config.lora import LoraOptions
from preftree.config.online import OnlineConfig, PpoConfig, RlooConfig
from preftree.config.recipes import AnyConfig
from preftree.errors import ConfigError
from preftree.models.adapter_folder import AdapterFolder, adapter_names, find_adapter
from preftree.models.adapters import adapter_off, add_adapter, attach_adapter, has_targets, merge_adapter
from preftree.models.load import load_base, load_tokenizer, remove_dropout
from preftree.reference.key import adapted_digest, weights_digest, weights_digest_of_model
from preftree.runtime.paths import cache_root
from preftree.runtime.ranks import Ranks
from preftree.scoring.scorer import Scorer


@dataclass(frozen=True, eq=False, slots=True)
class Policy:
    """The model that a run trains, as it is before the first step.

    Attributes:
      scorer: The model, scoring.
      weights: Digest of what it computes: a fresh adapter changes nothing yet.
      base: Folder or hub id of the whole model that was loaded.
      base_weights: Digest of that.
      lora: Options of the adapter in training, with nothing left open; None where all weights are trained.
      incoming: The adapter that `model` named, where it named one.
      merged: Whether the incoming adapter was merged.
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
        """Whether the adapter in training is new: without it the policy is what it was as the run began."""
        return self.lora is not None and (self.incoming is None or self.merged)

    @property
    def words(self) -> str:
        """What it is, for people."""
        start = self.base
        if self.incoming is not None:
            start += f" with adapter {self.incoming.path}" + (" merged into it" if self.merged else "")
        return f"{start}, under a new adapter" if self.is_fresh else start

    def others(self, model: str) -> dict[str, Path]:
        """The adapters beside the one in training, by name, where one of several is trained further."""
        if self.incoming is None or self.merged:
            return {}
        top = Path(model).expanduser()
        folders = {name: top / name if (top / name).is_dir() else top for name in adapter_names(top)}
        return {name: folder for name, folder in folders.items() if folder != self.incoming.path}


@dataclass(frozen=True, eq=False, slots=True)
class ReferenceModel:
    """What the policy is compared with.

    Attributes:
      scorer: Scores it.
      weights: Digest of what it computes.
      without_adapter: Whether the scorer's adapter has to be off.
      is_start: Whether it computes what the policy computes before the first step.
      words: What it is, for people.
    """

    scorer: Scorer
    weights: str
    without_adapter: bool
    is_start: bool
    words: str

    @contextmanager
    def active(self) -> Iterator[Scorer]:
        """The scorer as the reference, while the context lasts."""
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
    model = load_base(incoming or config.model, quantize=config.quantize, device=ranks.device)
    base = incoming.base if incoming else config.model
    base_weights = weights = digest_base(base, model, config)
    merged = incoming is not None and (lora is None or lora.new)
    if incoming is not None:
        if merged and config.quantize:
            raise ConfigError(
                f"lora.new=true merges adapter {incoming.path}, which cannot be done in {config.quantize} weights; "
                "merge it first with preftree export, or go on with it"
            )
        (merge_adapter if merged else _go_on)(model, incoming)
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
    """The reference that a run asks for; another model is loaded where the policy cannot be it.

    Raises:
      ConfigError: the other model has another vocabulary, or there is no base.
      ModelError: it cannot be loaded.
    """
    asked, bare = config.reference_place, "the model under the adapter"
    if asked == "start":
        start = policy.words.removesuffix(", under a new adapter")
        return ReferenceModel(policy.scorer, policy.weights, policy.is_fresh, True, f"start: {start}")
    if asked == "base":
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
    if load_tokenizer(asked).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"reference={asked} has another vocabulary than model={config.model}, so it cannot score the same tokens; "
            "give a model with the same tokenizer"
        )
    scorer, weights = load_frozen(asked, config, ranks)
    return ReferenceModel(scorer, weights, False, False, asked)


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
    if reference.scorer is policy.scorer and not reference.without_adapter:  # it moves away from what it was
        place = policy.incoming.path if policy.incoming else config.model
        scorer, _ = load_frozen(str(place), config, ranks, merged=policy.merged)
        reference = replace(reference, scorer=scorer)
    if reference.scorer is not policy.scorer:
        reference.scorer.requires_grad_(False)
    return reference


def load_frozen(name: str, config: AnyConfig, ranks: Ranks, *, merged: bool = False) -> tuple[Scorer, str]:
    """Another model than the policy, adapter included (`merged`: in its weights), and its digest."""
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
    """Where that lies what a run's KL is measured from: its reference, or where it has none what it started from."""
    named = config.reference_place if isinstance(config, DpoConfig | PpoConfig | RlooConfig) else "start"
    adapter = find_adapter(config.model, config.lora.name if config.lora else None)
    if named in ("start", "none"):
        return str(adapter.path) if adapter else config.model
    if named == "base":
        return adapter.base if adapter else config.model
    return named


def _go_on(model: PreTrainedModel, adapter: AdapterFolder) -> None:
    attach_adapter(model, adapter, trained=True)


def _options_of(asked: LoraOptions, adapter: AdapterFolder, model: PreTrainedModel) -> LoraOptions:
    """The options of a stored adapter; those that were asked for must be the same."""
    stored = adapter.config
    options: dict[str, Any] = {
        "r": int(stored["r"]),
        "alpha": float(stored["lora_alpha"]),
        "dora": bool(stored.get("use_dora")),
        "rslora": bool(stored.get("use_rslora")),
        "modules_to_save": sorted(stored.get("modules_to_save") or []) or None,
    }
    wrong = [name for name, value in options.items() if getattr(asked, name) not in (None, value)]
    if asked.targets is not None and not has_targets(model, asked.targets):
        wrong.append("targets")
    if wrong:
        has = f", it is {options[wrong[0]]}" if wrong[0] in options else ""
        raise ConfigError(
            f"lora.{wrong[0]}={getattr(asked, wrong[0])} is not that of adapter {adapter.path}{has}: leave it out to "
            "go on with the adapter, or set lora.new=true to merge it and train a new one"
        )
    targets = stored.get("target_modules")
    return asked.model_copy(
        update=options | {"targets": sorted(targets) if isinstance(targets, list) else asked.targets}
    )


def digest_base(name: str, model: PreTrainedModel, config: AnyConfig) -> str:
    """Digest of the weights of the whole model `name`, just loaded; files are hashed once."""
    place = Path(name).expanduser()
    if any(place.glob("*.safetensors")):
        return weights_digest(place, memo=_memo(config))
    return weights_digest_of_model(model)


def _digest_adapted(base: str, adapter: AdapterFolder, config: AnyConfig, *, merged: bool) -> str:
    return adapted_digest(base, adapter.path, merged=merged, memo=_memo(config))


def _memo(config: AnyConfig) -> Path:
    return Path(config.cache or cache_root())

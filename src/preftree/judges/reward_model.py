"""Rewards of a reward model, trained by `preftree reward` or another program."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from transformers import AutoConfig, PreTrainedModel

from preftree.data.rows.faults import RowFault
from preftree.data.store.end_marked import mark_end
from preftree.data.tokens.budgets import Budgets, Truncation
from preftree.data.tokens.encoder import make_encoder
from preftree.data.tokens.sampled_responses import encode_answers
from preftree.errors import ConfigError, JudgeError
from preftree.judges.classifier import Classifier
from preftree.models.foreign import reason
from preftree.models.load import load_tokenizer
from preftree.models.reward_model import load_reward_model, padding_of
from preftree.records import Text
from preftree.reference.key import weights_digest
from preftree.runtime.machine import best_device
from preftree.runtime.paths import cache_root
from preftree.scoring.reward_scorer import RewardScorer
from preftree.tree.pack import plan_step

_log = logging.getLogger("preftree")

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # `owner/name`

BLOCK = 1024
"""Responses that are laid out at a time."""


@dataclass(frozen=True, slots=True)
class RewardPlace:
    """A reward model or classifier, as `rm:PATH`, `rm:PATH:LABEL` or the path of a folder names it.

    Attributes:
      model: The model's folder, or a hub id.
      label: Label of a classifier whose probability is the reward; None for a reward model.
      commit: Commit of a hub id at present.
    """

    model: str
    label: str | None = None
    commit: str | None = None


def find_reward_model(spec: str) -> RewardPlace | None:
    """The model that a reward's name refers to: a folder, or `model` in the folder of a run; after `rm:` a hub id too.

    Raises:
      ConfigError: `rm:` is followed by no model.
    """
    named = spec.startswith("rm:")
    path = spec.removeprefix("rm:")
    head, colon, label = path.rpartition(":")
    reasons = []
    for name, label_of in ((path, None), *([(head, label)] if named and colon and label else [])):
        for folder in (Path(name).expanduser(), Path(name).expanduser() / "model"):
            if (folder / "config.json").is_file():
                return RewardPlace(str(folder), label_of)
        could_be_on_hub = _HUB_ID.fullmatch(name) is not None and not Path(name).parent.is_dir()
        if named and could_be_on_hub:
            commit, reason = _ask_hub(name)
            if commit is not None:
                return RewardPlace(name, label_of, commit)
            reasons.append(f" (the hub: {reason})")
    if named or Path(path).expanduser().is_dir():
        raise ConfigError(
            f"reward {spec!r}: {path} holds no model{''.join(reasons)}; give a folder that `preftree reward` has "
            "written, a hub id, or a classifier with its label, as rm:PATH:LABEL"
        )
    return None


def model_digest(model: RewardPlace) -> str:
    """The first figures of the digest of a model's weights, or of its commit on the hub."""
    return (model.commit or weights_digest(Path(model.model), memo=cache_root()))[:16]


def open_reward_model(model: RewardPlace, *, device: torch.device | str | None = None) -> RewardModel | Classifier:
    """The model, ready to judge.

    Args:
      model: The model's folder or hub id.
      device: Device of the model; by default the first GPU, or the CPU.
    Raises:
      ConfigError: a classifier has no such label.
      ModelError: it cannot be loaded, or is no reward model.
    """
    if model.label is not None:
        return Classifier(model.model, model.label, device=device)
    return RewardModel(model.model, device=device)


@functools.cache
def _ask_hub(name: str) -> tuple[str | None, str]:
    """The commit of a model id, from the hub or from its cache on this disk; None where neither has it, and why."""
    try:
        return getattr(
            AutoConfig.from_pretrained(name, trust_remote_code=False), "_commit_hash", None
        ), "it gives no commit"
    except (OSError, ValueError, KeyError) as error:
        return None, reason(error).rstrip(".")


def lengths_of(model: PreTrainedModel) -> tuple[Budgets, Truncation]:
    """Token budgets that a reward model was trained with, and the treatment of what exceeds them."""
    lengths = dict(getattr(model.config, "preftree_lengths", {}))
    truncation: Truncation = lengths.pop("truncation", "drop")
    return Budgets(**lengths), truncation


class RewardModel:
    """A reward model and its tokenizer: texts in, rewards out.

    Attributes:
      scorer: The model.
    """

    def __init__(self, folder: str | Path, *, device: torch.device | str | None = None, budget: int = 8192) -> None:
        """Load the model.

        Args:
          folder: The model's folder, or a hub id.
          device: Device of the model; by default the first GPU, or the CPU.
          budget: Most tokens of a forward; more where a response alone has more.
        Raises:
          ModelError: it cannot be loaded, or is no reward model.
        """
        self.scorer = RewardScorer(load_reward_model(folder, device=device or best_device()))
        self._tokenizer = load_tokenizer(folder)
        self._encoder = make_encoder(self._tokenizer)
        self._padding = padding_of(self.scorer.model)
        self._lengths = lengths_of(self.scorer.model)
        self._folder, self._budget = folder, budget

    def __call__(self, prompts: Sequence[Text], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Rewards of responses; each prompt and response is rendered and cut as in the model's training.

        A response with special tokens, which no row of training may hold, is judged as text without them, and a warning
        counts it.

        Raises:
          JudgeError: a prompt cannot be rendered, or a reward is not finite.
          ModelError: a text is longer than the model has positions for.
        """
        rewards = np.zeros(len(responses))
        for start in range(0, len(responses), BLOCK):
            part = slice(start, start + BLOCK)
            rewards[part] = self._block(prompts[part], responses[part])
        if len(bad := np.flatnonzero(~np.isfinite(rewards))):
            raise JudgeError(f"reward model {self._folder} gives {rewards[bad[0]]} for {responses[bad[0]][:60]!r}")
        return rewards

    def _block(self, prompts: Sequence[Text], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        budgets, truncation = self._lengths
        try:
            shown, answers, as_text = encode_answers(
                self._tokenizer, self._encoder, prompts, responses, budgets=budgets, truncation=truncation
            )
        except RowFault as fault:
            raise JudgeError(f"reward model {self._folder}: {fault}") from fault
        if any(as_text):
            _log.warning(
                "reward model %s: %d of %d responses hold special tokens or marks of the chat template; they are "
                "judged as text, without special tokens: first %r",
                *(self._folder, sum(as_text), len(as_text), responses[as_text.index(True)][:60]),
            )
        numbers: dict[bytes, int] = {}
        groups = [numbers.setdefault(ids.tobytes(), len(numbers)) for ids in shown]
        ends = [
            [mark_end(np.concatenate([ids, answer]), self._padding)] for ids, answer in zip(shown, answers, strict=True)
        ]
        budget = max(self._budget, *(len(sequence.ids) for (sequence,) in ends))
        (plan,) = plan_step(ends, groups, budget=budget, sharing=self.scorer.sharing)
        rewards = np.zeros(len(ends))
        with torch.inference_mode():
            for micro in plan:
                rewards[list(micro.examples)] = self.scorer(micro.batch.to(self.scorer.device)).double().cpu().numpy()
        return rewards

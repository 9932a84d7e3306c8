"""Rewards by a reward model that `preftree reward`, or another program, has trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from preftree.data.answers import encode_answers
from preftree.data.budgets import Budgets
from preftree.data.encode import make_encoder
from preftree.data.ending import mark_end
from preftree.data.faults import RowFault
from preftree.errors import ConfigError, JudgeError
from preftree.models.load import best_device, load_tokenizer
from preftree.models.reward import load_reward_model, padding_of
from preftree.records import Text
from preftree.reference.key import cache_root, weights_digest
from preftree.scoring.reward import RewardScorer
from preftree.tree.pack import plan_step

BLOCK = 1024
"""Responses that are laid out at a time."""


def find_reward_model(spec: str) -> Path | None:
    """The model folder that `rm:PATH`, or the path of a folder, names: the folder, or `model` in the folder of a run.

    Raises:
      ConfigError: `rm:` is followed by no folder of a model.
    """
    named = spec.startswith("rm:")
    place = Path(spec.removeprefix("rm:")).expanduser()
    for folder in (place, place / "model"):
        if (folder / "config.json").is_file():
            return folder
    if named or place.is_dir():
        raise ConfigError(f"reward {spec!r}: {place} holds no model; give a folder that `preftree reward` has written")
    return None


def model_digest(folder: Path) -> str:
    """The first figures of the digest of a model's weights."""
    return weights_digest(folder, memo=cache_root())[:16]


class RewardModel:
    """A reward model and its tokenizer: texts in, rewards out.

    Attributes:
      scorer: The model.
    """

    def __init__(self, folder: Path, *, device: torch.device | str | None = None, budget: int = 8192) -> None:
        """Load the model.

        Args:
          folder: Of the model.
          device: Where it goes; by default the first GPU, or the CPU.
          budget: Most tokens of a forward; more where a response alone has more.
        Raises:
          ModelError: it cannot be loaded, or is no reward model.
        """
        self.scorer = RewardScorer(load_reward_model(folder, device=device or best_device()))
        self._tokenizer = load_tokenizer(folder)
        self._encoder = make_encoder(self._tokenizer)
        self._padding = padding_of(self.scorer.model)
        lengths = dict(getattr(self.scorer.model.config, "preftree_lengths", {}))
        self._truncation = lengths.pop("truncation", "drop")
        self._budgets = Budgets(**lengths)
        self._folder, self._budget = folder, budget

    def __call__(self, prompts: Sequence[Text], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Rewards of responses; each prompt and response is rendered and cut as in the model's training.

        Raises:
          JudgeError: a conversation cannot be rendered, or a reward is not finite.
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
        try:
            shown, answers = encode_answers(
                self._tokenizer,
                self._encoder,
                prompts,
                responses,
                budgets=self._budgets,
                truncation=self._truncation,
            )
        except RowFault as fault:
            raise JudgeError(f"reward model {self._folder}: {fault}") from fault
        numbers: dict[bytes, int] = {}
        groups = [numbers.setdefault(ids.tobytes(), len(numbers)) for ids in shown]
        ends = [
            [mark_end(np.concatenate([ids, answer]), self._padding)] for ids, answer in zip(shown, answers, strict=True)
        ]
        budget = max(self._budget, *(len(sequence.ids) for (sequence,) in ends))
        (plan,) = plan_step(ends, groups, budget=budget, share=self.scorer.shares_prefixes)
        found = np.zeros(len(ends))
        with torch.inference_mode():
            for micro in plan:
                found[list(micro.examples)] = self.scorer(micro.batch.to(self.scorer.device)).double().cpu().numpy()
        return found

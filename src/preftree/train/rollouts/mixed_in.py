"""Demonstrations whose likelihood PPO raises beside the reward ("PPO-ptx")."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.config.online import OnlineConfig, PpoConfig
from preftree.data.store.token_store import TokenStore
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import ConfigError
from preftree.losses.sft import sft
from preftree.runtime.paths import cache_root
from preftree.scoring.scorer import Scorer
from preftree.train.open_run import OpenRun
from preftree.train.rollouts.rollout import prompts_of
from preftree.tree.pack import plan_step

log = logging.getLogger("preftree")


@dataclass(frozen=True, eq=False, slots=True)
class MixedIn:
    """Demonstrations for the updates of a run.

    Attributes:
      store: The tokenised rows.
      weight: Weight of the mean negative log-likelihood of a token.
      budget: Most tokens of a micro-batch.
      seed: Seed of the run.
    """

    store: TokenStore
    weight: float
    budget: int
    seed: int

    def descend(self, scorer: Scorer, number: int, size: int) -> Float[Tensor, ""]:
        """Add the gradient of the rows of one update to the policy's; returns their mean loss of a token, detached.

        Args:
          scorer: The policy.
          number: Number of the update in the run: the rows are a function of it and of the seed.
          size: Rows of an update.
        """
        rows = prompts_of(number, num_prompts=len(self.store), per_iteration=size, seed=self.seed)
        groups = [self.store[row].sequences for row in rows.tolist()]
        prompts = self.store.prompts[rows].tolist()
        (micros,) = plan_step(groups, prompts, budget=self.budget, sharing=scorer.sharing)
        num_tokens = int(self.store.num_scored[rows].sum())
        total = torch.zeros((), dtype=torch.float64, device=scorer.device)
        for micro in micros:
            loss = sft(scorer(micro.batch.to(scorer.device)).double()).sum() / num_tokens
            (self.weight * loss).backward()
            total += loss.detach()
        return total


def open_mixed_in(run: OpenRun[OnlineConfig]) -> MixedIn | None:
    """The demonstrations that the options name; None where they name none.

    Raises:
      DataError: the file cannot be read, or holds no demonstrations.
      ConfigError: a row alone is larger than a micro-batch.
    """
    config = run.config
    if not isinstance(config, PpoConfig) or config.ptx_data is None:
        return None
    cache = Path(config.cache or cache_root())
    store, report = tokenize_file(config.ptx_data, run.tokenizer, kind="demonstration", cache_dir=cache)
    for line in report.lines():
        log.info("%s", line)
    longest = int(store.num_tokens.argmax())
    if store.num_tokens[longest] > config.micro_batch_tokens:
        raise ConfigError(
            f"micro_batch_tokens must be at least {store.num_tokens[longest]} to hold {store.provenance(longest)}, got "
            f"{config.micro_batch_tokens}; raise it, or leave the row out"
        )
    return MixedIn(store, config.ptx_coef, config.micro_batch_tokens, config.seed)

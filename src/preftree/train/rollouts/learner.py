"""Models of an online run, and their figures of sampled responses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from preftree.config.online import OnlineConfig
from preftree.data.prompts import PromptSet
from preftree.generate.hf import Sampling
from preftree.judges.rewards import Rewards
from preftree.scoring.critic import Critic
from preftree.scoring.scorer import Scorer
from preftree.scoring.vocabulary import head_entropy, head_of, reference_kl
from preftree.train.policy import ReferenceModel
from preftree.train.rollouts.mixed_in import MixedIn
from preftree.train.rollouts.prompts import RunPrompts
from preftree.train.rollouts.rollout import Minibatch, Rollout, lay_out, roll_out
from preftree.tree.layout import Sharing


@dataclass(frozen=True, eq=False, slots=True)
class Learner:
    """Models of an online run, its prompts and its reward.

    Attributes:
      config: The run's options, all filled in.
      scorer: The policy.
      optimizer: Its optimiser.
      critic: The critic with its optimiser; None for RLOO.
      reference: The model that the KL penalty is against.
      tokenizer: The policy's tokenizer.
      data: Training and held-out prompts.
      rewards: Reward of responses.
      mixed_in: Demonstrations whose likelihood is raised in every update; None for none.
    """

    config: OnlineConfig
    scorer: Scorer
    optimizer: Optimizer
    critic: tuple[Critic, Optimizer] | None
    reference: ReferenceModel
    tokenizer: PreTrainedTokenizerBase
    data: RunPrompts
    rewards: Rewards
    mixed_in: MixedIn | None = None

    @property
    def sharing(self) -> Sharing:
        """What both models allow sequences to share: nothing where they differ in that."""
        mine, other = self.scorer.sharing, self.reference.scorer.sharing
        return mine if mine == other else Sharing(prefixes=False)

    def sample(self, prompts: PromptSet, rows: np.ndarray, samples: int, first_row: int) -> Rollout:
        """Responses sampled from the current policy."""
        config = self.config
        sampling = Sampling(config.max_new_tokens, temperature=config.temperature, seed=config.seed)
        return roll_out(
            self.scorer,
            self.tokenizer,
            prompts,
            rows,
            self.rewards,
            sampling,
            samples=samples,
            first_row=first_row,
            batch_size=config.generation_batch,
        )

    def lay_out(self, rollout: Rollout, responses: np.ndarray) -> Minibatch:
        """Responses laid out in micro-batches."""
        return lay_out(rollout, responses, budget=self.config.micro_batch_tokens, sharing=self.sharing)


@dataclass(frozen=True, eq=False, slots=True)
class Scored:
    """Figures of the tokens of a rollout before any update, without gradients, [I].

    Attributes:
      policy, ref: Log-probs of the tokens, nats.
      kl: KL(policy || reference) of the next token, over the whole vocabulary, nats.
      entropy: Entropy of the policy's next token, nats.
      values: Value of the state before each token; None without a critic.
    """

    policy: Float[Tensor, " I"]
    ref: Float[Tensor, " I"]
    kl: Float[Tensor, " I"]
    entropy: Float[Tensor, " I"]
    values: Float[Tensor, " I"] | None


def score(learner: Learner, rollout: Rollout, batches: list[Minibatch]) -> Scored:
    """Score a rollout under policy, reference and critic, in the packing of `batches`; each is in one of them."""
    size, device = int(rollout.count_R.sum()), learner.scorer.device
    names = ("policy", "ref", "kl", "entropy", *(("values",) if learner.critic else ()))
    table = {name: torch.zeros(size, dtype=torch.float64, device=device) for name in names}
    with torch.no_grad():
        for batch in batches:
            for micro in batch.micros:
                trees = micro.batch.to(device)
                with learner.reference.active() as scorer:
                    ref = head_of(scorer, trees)
                policy = head_of(learner.scorer, trees)
                figures = {
                    "policy": policy.logps(trees.target_S),
                    "ref": ref.logps(trees.target_S),
                    "kl": reference_kl(ref, policy),
                    "entropy": head_entropy(policy),
                }
                figures = {name: values.index_select(0, trees.prediction_I) for name, values in figures.items()}
                if learner.critic is not None:
                    figures["values"] = learner.critic[0](trees, policy.hidden_SD)
                places = rollout.places(batch.responses[list(micro.examples)])
                index = torch.from_numpy(places).to(device)
                for name, values in figures.items():
                    table[name].index_copy_(0, index, values.double())
    return Scored(table["policy"], table["ref"], table["kl"], table["entropy"], table.get("values"))

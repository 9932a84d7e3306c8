"""Responses sampled from the policy in training, with their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedTokenizerBase

from preftree.data.order import epoch_order
from preftree.data.prompts import PromptSet
from preftree.data.tokens.encoder import make_encoder
from preftree.errors import JudgeError
from preftree.generate.hf import Sampling, generate
from preftree.generate.protocol import response_sequence
from preftree.judges.rewards import Rewards
from preftree.scoring.scorer import Scorer, evaluation_mode
from preftree.tree.layout import Sharing, TokenSequence
from preftree.tree.pack import MicroBatch, plan_step


@dataclass(frozen=True, eq=False, slots=True)
class Rollout:
    """Sampled responses, prompt by prompt.

    Attributes:
      sequences: Each response with its prompt, [R].
      prompt_R: Equal numbers for equal prompts, [R].
      count_R: Tokens of each response, including the token that ends it, [R].
      rewards_R: Reward of each response, [R].
      finished_R: Whether the model ended the response, [R].
      marked_R: Whether the response holds a special token other than the one that ends it, [R].
    """

    sequences: Sequence[TokenSequence]
    prompt_R: Int[np.ndarray, " R"]
    count_R: Int[np.ndarray, " R"]
    rewards_R: Float[np.ndarray, " R"]
    finished_R: Bool[np.ndarray, " R"]
    marked_R: Bool[np.ndarray, " R"]

    def places(self, responses: Sequence[int] | Int[np.ndarray, " N"]) -> Int[np.ndarray, " I"]:
        """Positions of the tokens of some responses among those of all."""
        stops = np.cumsum(self.count_R)
        runs = [np.arange(stops[row] - self.count_R[row], stops[row]) for row in responses]
        return np.concatenate(runs) if runs else np.empty(0, np.int64)


@dataclass(frozen=True, eq=False, slots=True)
class Minibatch:
    """The responses of one update, laid out.

    Attributes:
      responses: Indices of the responses in the rollout, [N].
      micros: Their micro-batches; the examples of each are indices into `responses`.
    """

    responses: Int[np.ndarray, " N"]
    micros: Sequence[MicroBatch]


def prompts_of(iteration: int, *, num_prompts: int, per_iteration: int, seed: int) -> Int[np.ndarray, " X"]:
    """Prompts of an iteration; epochs follow each other without a gap, each in another order."""
    positions = np.arange(iteration * per_iteration, (iteration + 1) * per_iteration)
    epochs, within = np.divmod(positions, num_prompts)
    orders = {epoch: epoch_order(num_prompts, seed=seed, epoch=epoch) for epoch in np.unique(epochs).tolist()}
    return np.array([orders[epoch][index] for epoch, index in zip(epochs.tolist(), within.tolist(), strict=True)])


def roll_out(
    policy: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    rows: Int[np.ndarray, " X"],
    rewards: Rewards,
    sampling: Sampling,
    *,
    samples: int,
    first_row: int,
    batch_size: int,
) -> Rollout:
    """Sample responses from the policy, and compute their rewards.

    Args:
      policy: The policy.
      tokenizer: Its tokenizer.
      prompts: All prompts.
      rows: Indices of the prompts to answer.
      rewards: Reward of responses.
      sampling: Sampling options.
      samples: Responses to each prompt.
      first_row: Number of the first response among all of the run, which determines its random numbers.
      batch_size: Responses sampled at once.
    Raises:
      JudgeError: the reward failed, or is not a finite number.
      ConfigError: a prompt leaves no room for a response.
    """
    repeated = np.repeat(rows, samples).tolist()
    prompt_ids = [prompts.ids[row] for row in repeated]
    low = policy.precision == "bf16"
    with evaluation_mode(policy), torch.autocast(policy.device.type, torch.bfloat16, enabled=low):
        sampled = generate(policy.model, tokenizer, prompt_ids, sampling, batch_size=batch_size, first_row=first_row)
    texts, special = [sample.text for sample in sampled], set(make_encoder(tokenizer).special_ids)
    rewards_R = np.asarray(rewards([prompts.prompts[row].text for row in repeated], texts), float)
    if rewards_R.shape != (len(texts),) or not np.isfinite(rewards_R).all():
        bad = [row for row in range(len(texts)) if rewards_R.shape != (len(texts),) or not np.isfinite(rewards_R[row])]
        raise JudgeError(
            f"the reward must be one finite number a response, and is none for {texts[bad[0]][:60]!r}, a response "
            f"to {prompts.prompts[repeated[bad[0]]].where}; fix the reward"
        )
    return Rollout(
        sequences=[response_sequence(ids, sample) for ids, sample in zip(prompt_ids, sampled, strict=True)],
        prompt_R=prompts.same[repeated],
        count_R=np.array([len(sample.ids) + sample.finished for sample in sampled], np.int64),
        rewards_R=rewards_R,
        finished_R=np.array([sample.finished for sample in sampled], np.bool_),
        marked_R=np.array([not special.isdisjoint(sample.ids) for sample in sampled], np.bool_),
    )


def lay_out(rollout: Rollout, responses: Int[np.ndarray, " N"], *, budget: int, sharing: Sharing) -> Minibatch:
    """Some responses as micro-batches; those to prompts that are equal or begin alike share a tree while it fits.

    Raises:
      ValueError: a response alone is larger than the budget.
    """
    sequences = [[rollout.sequences[row]] for row in responses.tolist()]
    (micros,) = plan_step(sequences, rollout.prompt_R[responses].tolist(), budget=budget, sharing=sharing)
    return Minibatch(responses, micros)


def cut_minibatches(num: int, *, samples: int, size: int, seed: int, epoch: int) -> list[Int[np.ndarray, " N"]]:
    """The responses of each update of an epoch: shuffled by prompt, so that the branches of one tree meet.

    Args:
      num: Responses of the iteration.
      samples: Responses to each prompt, which follow each other.
      size: Responses of an update; divides `num`.
      seed: Seed of the run.
      epoch: Number of the epoch in the run.
    """
    order = epoch_order(num, seed=seed, epoch=epoch, groups=np.arange(num) // samples)
    return [order[start : start + size] for start in range(0, num, size)]

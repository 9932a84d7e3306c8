"""Responses of the policy in training, with what they were worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedTokenizerBase

from preftree.data.order import epoch_order
from preftree.data.prompts import PromptSet
from preftree.errors import JudgeError
from preftree.generate.hf import Sampling, generate
from preftree.generate.protocol import response_sequence
from preftree.judges.rewards import Rewards
from preftree.scoring.scorer import Scorer, evaluation_mode
from preftree.tree.layout import TokenSequence
from preftree.tree.pack import MicroBatch, plan_step


@dataclass(frozen=True, eq=False, slots=True)
class Rollout:
    """Sampled responses, those to one prompt one after the other.

    Attributes:
      sequences: Each with its prompt, [R].
      prompt_R: Equal numbers for equal prompts, [R].
      count_R: Tokens of each response, the one that ended it included, [R].
      rewards_R: What each was given, [R].
      finished_R: Whether the model ended it, [R].
    """

    sequences: Sequence[TokenSequence]
    prompt_R: Int[np.ndarray, " R"]
    count_R: Int[np.ndarray, " R"]
    rewards_R: Float[np.ndarray, " R"]
    finished_R: Bool[np.ndarray, " R"]

    def places(self, responses: Sequence[int] | Int[np.ndarray, " N"]) -> Int[np.ndarray, " I"]:
        """Where the tokens of some responses stand among those of all."""
        stops = np.cumsum(self.count_R)
        runs = [np.arange(stops[one] - self.count_R[one], stops[one]) for one in responses]
        return np.concatenate(runs) if runs else np.empty(0, np.int64)


@dataclass(frozen=True, eq=False, slots=True)
class Minibatch:
    """The responses of one update, laid out.

    Attributes:
      responses: Which of the rollout's, [N].
      micros: How they are computed; the examples of each are indices into `responses`.
    """

    responses: Int[np.ndarray, " N"]
    micros: Sequence[MicroBatch]


def prompts_of(iteration: int, *, num_prompts: int, per_iteration: int, seed: int) -> Int[np.ndarray, " X"]:
    """Which prompts an iteration answers: a piece of an endless run through ever new orders of all of them."""
    places = np.arange(iteration * per_iteration, (iteration + 1) * per_iteration)
    epochs, within = np.divmod(places, num_prompts)
    orders = {epoch: epoch_order(num_prompts, seed=seed, epoch=epoch) for epoch in np.unique(epochs).tolist()}
    return np.array([orders[epoch][place] for epoch, place in zip(epochs.tolist(), within.tolist(), strict=True)])


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
    """Let the policy answer, and have the answers judged.

    Args:
      policy: What answers.
      tokenizer: Its tokenizer.
      prompts: Where the prompts come from.
      rows: Which of them.
      rewards: Who judges.
      sampling: How responses are drawn.
      samples: Responses to each.
      first_row: Number of the first response among all that the run draws, which decides its random numbers.
      batch_size: Responses drawn at once.
    Raises:
      JudgeError: the reward failed, or is no finite number.
      ConfigError: a prompt leaves no room for a response.
    """
    repeated = np.repeat(rows, samples).tolist()
    asked = [prompts.ids[row] for row in repeated]
    low = policy.precision == "bf16"
    with evaluation_mode(policy), torch.autocast(policy.device.type, torch.bfloat16, enabled=low):
        drawn = generate(policy.model, tokenizer, asked, sampling, batch_size=batch_size, first_row=first_row)
    rewarded = np.asarray(rewards([prompts.prompts[row].text for row in repeated], [one.text for one in drawn]), float)
    if rewarded.shape != (len(drawn),) or not np.isfinite(rewarded).all():
        bad = [row for row in range(len(drawn)) if rewarded.shape != (len(drawn),) or not np.isfinite(rewarded[row])]
        raise JudgeError(
            f"the reward must be one finite number a response, and is none for {drawn[bad[0]].text[:60]!r}, an answer "
            f"to {prompts.prompts[repeated[bad[0]]].where}; fix the reward"
        )
    return Rollout(
        sequences=[response_sequence(ids, one) for ids, one in zip(asked, drawn, strict=True)],
        prompt_R=prompts.same[repeated],
        count_R=np.array([len(one.ids) + one.finished for one in drawn], np.int64),
        rewards_R=rewarded,
        finished_R=np.array([one.finished for one in drawn], np.bool_),
    )


def lay_out(rollout: Rollout, responses: Int[np.ndarray, " N"], *, budget: int, share: bool) -> Minibatch:
    """Some responses as micro-batches; those to equal prompts share a tree while it fits.

    Raises:
      ValueError: one alone is larger than the budget.
    """
    sequences = [[rollout.sequences[one]] for one in responses.tolist()]
    (micros,) = plan_step(sequences, rollout.prompt_R[responses].tolist(), budget=budget, share=share)
    return Minibatch(responses, micros)


def cut_minibatches(num: int, *, samples: int, size: int, seed: int, epoch: int) -> list[Int[np.ndarray, " N"]]:
    """The responses of each update of an epoch: shuffled by prompt, so that the branches of one tree meet.

    Args:
      num: Responses of the iteration.
      samples: Responses to each prompt, which stand one after the other.
      size: Responses of an update; divides `num`.
      seed: Of the run.
      epoch: Number of the epoch among all of the run.
    """
    order = epoch_order(num, seed=seed, epoch=epoch, groups=np.arange(num) // samples)
    return [order[start : start + size] for start in range(0, num, size)]

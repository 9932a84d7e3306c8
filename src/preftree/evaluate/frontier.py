"""Reward and KL of policies: exact in a world, from samples elsewhere.

Both figures are means over prompts. KL is that of whole responses, nats: for samples, the sum of the KLs of every
token's distribution over the vocabulary (Rafailov et al. 2023, arXiv:2305.18290, Section 6), averaged over responses
that the policy wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.errors import DataError
from preftree.evaluate.prompts import Prompts
from preftree.generate.hf import Generation, Sampling, generate
from preftree.generate.protocol import response_sequence
from preftree.judges.rewards import Rewards
from preftree.losses.quantities import sum_responses
from preftree.models.load import load_model
from preftree.records import Preference
from preftree.run_folder.measured_file import Point
from preftree.run_folder.summary_file import read_summary
from preftree.scoring.scorer import Scorer
from preftree.scoring.vocabulary import token_divergence
from preftree.stats.intervals import mean_interval
from preftree.storage.checkpoint import list_checkpoints, load_checkpoint, step_of
from preftree.tree.pack import pack
from preftree.worlds.exact import Outcomes, best_reward, kl_and_reward, kl_by_token
from preftree.worlds.grammar import World, reward_table
from preftree.worlds.walk import walk_outcomes

log = logging.getLogger("preftree")

Meter: TypeAlias = Callable[[PreTrainedModel], Mapping[str, float]]
"""A policy's figures: at least `kl` and `reward`."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Samples of one policy.

    Attributes:
      generations: Responses, [prompts][samples].
      rewards: Reward of each response, [prompts, samples].
    """

    generations: Sequence[Sequence[Generation]]
    rewards: Float[np.ndarray, "X N"]


def policies(run: Path, device: torch.device | str = "cpu") -> Iterator[tuple[int, PreTrainedModel]]:
    """The policy of a finished run at each of its snapshots and at its end: (step, model), one model in memory for all.

    Raises:
      DataError: the run has not finished.
      CheckpointError: a snapshot is damaged.
    """
    summary = read_summary(run)
    if summary is None:
        raise DataError(f"{run} holds no finished run: let it come to its end, or give another folder")
    last = summary.steps
    model = load_model(run / "model", quantize=summary.config.get("quantize"), device=device)
    parameters = dict(model.named_parameters())
    final: dict[str, torch.Tensor] = {}  # of the parameters that the run trained
    for path in list_checkpoints(run / "snapshots"):
        if step_of(path) < last:
            loaded = load_checkpoint(path.parent, path)
            assert loaded is not None  # a named checkpoint is there, or loading it raises
            if loaded.state.meta.get("trajectory") != (summary.trajectory or None):
                log.warning("%s belongs to another run that was started in this folder; it is left out", path)
                continue
            snapshot = loaded.state.tensors["model"]
            final = final or {name: parameters[name].detach().clone() for name in snapshot}
            _load_weights(model, snapshot)
            yield step_of(path), model
    _load_weights(model, final)
    yield last, model


def trace(run: Path, meter: Meter, *, beta: float | None, seed: int | None, first: int = 1) -> list[Point]:
    """A run's points from its snapshot at step `first` or after it to its end, each with the run's beta and seed."""
    return [
        Point.model_validate({"step": step, "beta": beta, "seed": seed, **meter(model)})
        for step, model in policies(run)
        if step >= first
    ]


def world_meter(
    world: World, tokenizer: PreTrainedTokenizerBase, reference: Outcomes, held_out: Sequence[Preference] = ()
) -> Meter:
    """Exact figures in a world.

    kl                exact, by token, up to the token by which a text leaves the world
    reward            exact
    best              the highest reward that any policy has at this KL
    outside           mass on texts that are no response of the world
    accuracy, chosen_logratio, rejected_logratio    weighted means over held-out pairs, where there are any

    Args:
      world: A world whose responses can be enumerated.
      tokenizer: Tokenizer of the policies.
      reference: The reference over the world (worlds/walk.py), from which the KL is measured.
      held_out: Pairs of the world.
    """
    table = reward_table(world)

    def meter(model: PreTrainedModel) -> Mapping[str, float]:
        policy = walk_outcomes(model, tokenizer, world)
        kl = max(0.0, kl_by_token(policy, reference))
        figures = {
            "kl": kl,
            "reward": kl_and_reward(policy.logps, reference.logps, table).reward,
            "best": best_reward(reference.logps, table, kl),
            "outside": float(np.exp(policy.logps[:, -1]).mean()),
        }
        return figures | (_on_pairs(policy.logps - reference.logps, world, held_out) if held_out else {})

    return meter


def world_prompts(world: World, tokenizer: PreTrainedTokenizerBase) -> Prompts:
    """The prompts of a world."""
    return Prompts([tokenizer(prompt)["input_ids"] for prompt in world.prompts], world.prompts)


def draw_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    rewards: Rewards,
    sampling: Sampling,
    *,
    samples: int,
) -> Drawn:
    """Responses to every prompt, with their rewards; equal seeds give policies the same random numbers."""
    rows = [ids for ids in prompts.ids for _ in range(samples)]
    drawn = generate(model, tokenizer, rows, sampling)
    groups = [drawn[at : at + samples] for at in range(0, len(drawn), samples)]
    texts = [text for text in prompts.texts for _ in range(samples)]
    values = rewards(texts, [generation.text for generation in drawn])
    return Drawn(groups, values.reshape(len(groups), samples))


def sampled_figures(
    policy: Scorer, reference: Scorer, prompts: Prompts, drawn: Drawn, *, budget: int = 8192
) -> dict[str, float]:
    """KL and reward of a policy from its own samples, each with the ends of its 95 % interval over prompts.

    Args:
      policy: The policy that wrote the samples, at temperature 1 and without top-p; otherwise the KL is biased.
      reference: The model from which the KL is measured.
      prompts: Prompts of the samples; at least two.
      drawn: The samples.
      budget: Maximum number of tokens of a forward.
    Returns:
      kl, kl_low, kl_high (nats a response); reward, reward_low, reward_high; tokens, tokens_low, tokens_high (mean
      length of a response).
    """
    groups = [
        [response_sequence(ids, generation) for generation in group]
        for ids, group in zip(prompts.ids, drawn.generations, strict=True)
    ]
    sizes = [sum(len(sequence.ids) for sequence in group) for group in groups]
    kls = np.zeros(len(groups))
    rows = policy if reference.shares_prefixes else reference  # a model that takes trees takes single branches too
    for members in pack(sizes, max(budget, *sizes)):
        batch = rows.lay_out([groups[index] for index in members])
        sums = sum_responses(token_divergence(policy, reference, batch), batch.count_R).values
        kls[members] = sums.view(len(members), -1).mean(1).cpu().numpy()
    figures: dict[str, float] = {}
    for name, values in (("kl", kls), ("reward", drawn.rewards.mean(axis=1))):
        interval = mean_interval(values)
        figures |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    lengths = [[len(generation.ids) + generation.finished for generation in group] for group in drawn.generations]
    tokens = mean_interval(np.array(lengths, np.float64).mean(axis=1))
    figures |= {"tokens": tokens.value, "tokens_low": tokens.low, "tokens_high": tokens.high}
    return figures | {"kl": max(0.0, figures["kl"])}


def gain_over(start: Drawn, drawn: Drawn) -> dict[str, float]:
    """By how much the reward rose on the same prompts, with the ends of its 95 % interval over them.

    Prompts that are easy or hard for both are no noise of the difference.

    Returns:
      gain, gain_low, gain_high.
    """
    interval = mean_interval(drawn.rewards.mean(axis=1) - start.rewards.mean(axis=1))
    return {"gain": interval.value, "gain_low": interval.low, "gain_high": interval.high}


def _load_weights(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in tensors.items():
            parameters[name].copy_(value)


def _on_pairs(logratios: Float[np.ndarray, "X N"], world: World, pairs: Sequence[Preference]) -> dict[str, float]:
    """Weighted means over pairs: whether the chosen logratio is the higher one (a tie counts 1/2), and both of them."""
    sides: list[list[float]] = [[], []]
    for pair in pairs:
        row = logratios[world.prompts.index(str(pair.prompt))]
        sides[0].append(row[world.outcome(str(pair.chosen))])
        sides[1].append(row[world.outcome(str(pair.rejected))])
    chosen, rejected = np.array(sides)
    weights = np.array([pair.weight for pair in pairs])
    columns = {
        "accuracy": (1 + np.sign(chosen - rejected)) / 2,
        "chosen_logratio": chosen,
        "rejected_logratio": rejected,
    }
    return {name: float(np.average(values, weights=weights)) for name, values in columns.items()}

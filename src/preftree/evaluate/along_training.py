"""Reward, KL to the reference and sample texts of the policies along a finished run."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from preftree.config.dpo import DpoConfig
from preftree.config.load import AnyConfig, check_config
from preftree.config.online import OnlineConfig
from preftree.errors import DataError
from preftree.evaluate.frontier import (
    Drawn,
    draw_samples,
    gain_over,
    policies,
    sampled_figures,
    world_meter,
    world_prompts,
)
from preftree.evaluate.prompts import Prompts, run_prompts
from preftree.generate.hf import Sampling
from preftree.judges.functions import find_world, identify
from preftree.judges.rewards import Rewards, load_rewards
from preftree.models.adapter_folder import find_adapter
from preftree.models.load import load_tokenizer
from preftree.run_folder.measured_file import Measured, Point, Sample
from preftree.run_folder.reader import Run
from preftree.runtime.ranks import Ranks, open_ranks
from preftree.scoring.scorer import Scorer
from preftree.train.policy import load_frozen, start_place
from preftree.worlds.exact import best_reward
from preftree.worlds.grammar import MOST_OUTCOMES, World, reward_table
from preftree.worlds.walk import walk_outcomes

log = logging.getLogger("preftree")

MOST_TEXTS = 12
"""Pairs of texts that are kept to be read."""

DEFAULT_NEW_TOKENS = 256

OPTIMUM_KLS = (*np.linspace(0, 1, 21).round(4).tolist(), *np.linspace(1.25, 8, 28).tolist())
"""Nats at which a world's optimum is kept: straight lines between them are within .001 of it."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """Settings for measuring runs.

    Attributes:
      reward: Name of a reward (judges/functions.py).
      prompts: Maximum number of prompts.
      samples: Number of responses to each.
      max_new_tokens: Most tokens of a response; None is the run's max_response_length, or 256.
      seed: Seed of the choice of prompts and of the samples.
    """

    reward: str
    prompts: int = 256
    samples: int = 4
    max_new_tokens: int | None = None
    seed: int = 0


def measure_run(run: Run, how: Measuring) -> Measured:
    """Measure a run for RUN/measured.json: the points of its snapshots and of its end, and texts.

    Exact where the reward is a world's whose responses can be enumerated; from samples elsewhere. What was measured in
    the same way before is not measured again.

    Raises:
      DataError: the run is not finished, or its data cannot be read.
      ConfigError: there is no such reward.
      JudgeError: the reward failed.
    """
    run.require_finished()
    if run.recipe.trains == "reward_model":
        raise DataError(f"{run.path} is the run of a reward model, which writes nothing; give the run of a policy")
    reward = load_rewards(how.reward)  # a wrong name is reported first
    settings = asdict(how) | {"reward": identify(how.reward)}
    if run.measured.how == settings and run.measured.frontier[-1].step == run.steps:
        return run.measured
    config = check_config(run.recipe.config, run.config)
    world = find_world(how.reward)
    exact = world is not None and world.num_outcomes <= MOST_OUTCOMES
    figures = (
        _exactly(run, config, world, reward, how) if world and exact else _by_samples(run, config, world, reward, how)
    )
    return run.measured.model_copy(update=figures | {"how": settings})


def _exactly(run: Run, config: AnyConfig, world: World, reward: Rewards, how: Measuring) -> dict[str, Any]:
    tokenizer = load_tokenizer(run.path / "model")
    with open_ranks() as ranks:
        reference = load_reference(run, config, ranks).model
    prompts = world_prompts(world, tokenizer)
    sampling = Sampling(world.max_words, seed=how.seed)
    each = MOST_TEXTS // len(world.prompts)
    start_outcomes = walk_outcomes(reference, tokenizer, world)
    meter = world_meter(world, tokenizer, start_outcomes)
    points = [_point(config, 0, meter(reference))]
    start = last = draw_samples(reference, tokenizer, prompts, reward, sampling, samples=each)
    for step, model in policies(run.path):
        points.append(_point(config, step, meter(model)))
        last = draw_samples(model, tokenizer, prompts, reward, sampling, samples=each)
    edge = [Point(kl=kl, reward=best_reward(start_outcomes.logps, reward_table(world), kl)) for kl in OPTIMUM_KLS]
    return {"frontier": tuple(points), "optimum": tuple(edge), "samples": _side_by_side(prompts, start, last)}


def _by_samples(run: Run, config: AnyConfig, world: World | None, reward: Rewards, how: Measuring) -> dict[str, Any]:
    tokenizer = load_tokenizer(run.path / "model")
    sampling = Sampling(how.max_new_tokens or _limit(config), seed=how.seed)
    with open_ranks() as ranks:
        prompts, held_out = run_prompts(config, tokenizer, ranks, most=how.prompts, seed=how.seed)
        which = "held-out" if held_out else "training"
        if len(prompts.ids) < 2:
            raise DataError(f"{run.path} has one {which} prompt, and an interval over prompts needs two; hold out more")
        if world is not None and (odd := set(prompts.texts) - set(world.prompts)):
            raise DataError(f"reward {how.reward!r} knows its own prompts only, and {run.path} asks {min(odd)[:60]!r}")
        log.info("%s: %d samples for each of %d %s prompts", run.path, how.samples, len(prompts.ids), which)
        reference = load_reference(run, config, ranks)
        start = last = draw_samples(reference.model, tokenizer, prompts, reward, sampling, samples=how.samples)
        points = [_point(config, 0, sampled_figures(reference, reference, prompts, start))]
        for step, model in policies(run.path, ranks.device):
            last = draw_samples(model, tokenizer, prompts, reward, sampling, samples=how.samples)
            policy = Scorer(model, precision=config.precision)
            figures = sampled_figures(policy, reference, prompts, last) | gain_over(start, last)
            points.append(_point(config, step, figures))
            log.info("step %d: KL %.3g, reward %.4g", step, points[-1].kl, points[-1].reward)
    return {
        "frontier": tuple(points),
        "samples": _side_by_side(prompts, start, last),
        "sampled_tokens": (points[-1].model_extra or {})["tokens"],
        "ref_sampled_tokens": (points[0].model_extra or {})["tokens"],
    }


def load_reference(run: Run, config: AnyConfig, ranks: Ranks) -> Scorer:
    """The model that the run's KL is measured from, as it was then.

    Raises:
      DataError: the folder holds other weights now.
    """
    name = start_place(config)
    scorer, now = load_frozen(name, config.model_copy(update={"compile": False}), ranks)
    known = run.summary.get("trajectory", {})
    before = known.get("weights of the reference", known.get("weights of the model"))
    if find_adapter(config.model) is None and before not in (None, now):  # a merged adapter has another digest
        raise DataError(
            f"{run.path} began at weights {before[:8]}.., and {name} holds {now[:8]}.. now; put that model back"
        )
    return scorer


def _limit(config: AnyConfig) -> int:
    """Tokens of a response, as the run has it."""
    if isinstance(config, OnlineConfig):
        return config.max_new_tokens
    return config.max_response_length or DEFAULT_NEW_TOKENS


def _point(config: AnyConfig, step: int, figures: Any) -> Point:
    beta = config.beta if isinstance(config, DpoConfig) else None
    return Point.model_validate({"step": step, "beta": beta, "seed": config.seed, **figures})


def _side_by_side(prompts: Prompts, reference: Drawn, policy: Drawn) -> tuple[Sample, ...]:
    """The first answers of both to prompts spread over all of them; more answers where prompts are few."""
    num_prompts, each = policy.rewards.shape
    places = [(row, column) for column in range(each) for row in range(num_prompts)]
    if num_prompts > MOST_TEXTS:
        places = [(int(row), 0) for row in np.linspace(0, num_prompts - 1, MOST_TEXTS).round()]
    return tuple(
        Sample(
            prompt=prompts.texts[row],
            reference=reference.generations[row][column].text,
            policy=policy.generations[row][column].text,
            reference_reward=float(reference.rewards[row, column]),
            policy_reward=float(policy.rewards[row, column]),
        )
        for row, column in sorted(places[:MOST_TEXTS])
    )

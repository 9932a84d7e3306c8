"""Win rates over sampling temperatures, and their area and drop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.integrate import trapezoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.errors import JudgeError
from preftree.evaluate.answers import Answers
from preftree.evaluate.winrate import by_row, judge_pairs, refusals
from preftree.generate.hf import generate
from preftree.generate.protocol import Sampling
from preftree.judges.pairwise import Judge
from preftree.records import Text
from preftree.run_folder.measured_file import Temperature
from preftree.stats.intervals import Estimate, mean_interval, resampled_means, share_interval
from preftree.worlds.exact import Table, win_rate
from preftree.worlds.grammar import World, reward_table
from preftree.worlds.walk import outcome_logps


@dataclass(frozen=True, slots=True)
class Robustness:
    """A curve of win rates in two figures; their intervals have no width where the rates are exact.

    Attributes:
      name: Name of the policy.
      area: The area under it, divided by the span of temperatures: the mean win rate over them.
      best_at: The temperature of its highest point.
      drop: Its highest point less its last one, >= 0. Noise makes it larger on average, for the highest of several
        noisy figures is chosen.
      areas: The area of each prompt's own curve, by which two policies are compared; empty where rates are exact.
    """

    name: str
    area: Estimate
    best_at: float
    drop: Estimate
    areas: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Curves:
    """Win rates of several policies against one baseline.

    Attributes:
      baseline: Name of the baseline.
      judge: Name of the judge.
      prompts: Number of prompts.
      pairs: Pairs behind each rate; None where rates are exact.
      points: The rates, policy after policy, with 95 % intervals by prompt where they are sampled.
      robustness: One a policy, in the same order.
    """

    baseline: str
    judge: str
    prompts: int
    pairs: int | None
    points: tuple[Temperature, ...]
    robustness: tuple[Robustness, ...]


def sampled_curves(
    judge: Judge,
    prompts: Sequence[Text],
    temperatures: Sequence[float],
    policies: Mapping[str, Sequence[Answers]],
    baseline: Answers,
    *,
    seed: int,
) -> Curves:
    """Win rates from responses.

    Args:
      judge: The judge.
      prompts: Texts of the prompts.
      temperatures: Rising, two at least.
      policies: Responses of each at each temperature.
      baseline: Responses that all of them are compared with.
      seed: Seed of the bootstrap of the drops' intervals.
    Raises:
      JudgeError: the judge failed, or its verdicts bear no headline.
    """
    points: list[Temperature] = []
    robustness = []
    num_pairs = 0
    for name, answers in policies.items():
        columns = []
        for temperature, responses in zip(temperatures, answers, strict=True):
            pairs = judge_pairs(judge, prompts, responses, baseline)
            if refused := refusals(pairs):
                raise JudgeError(f"judge {judge.name!r} bears no win rate of {name} at {temperature:g}: {refused[0]}")
            num_pairs = len(pairs)
            columns.append(by_row(pairs))
            rate = share_interval(columns[-1])
            points.append(
                Temperature(name=name, temperature=temperature, value=rate.value, low=rate.low, high=rate.high)
            )
        robustness.append(sum_up(name, temperatures, np.stack(columns, axis=1), seed=seed))
    return Curves(baseline.name, judge.name, len(prompts), num_pairs, tuple(points), tuple(robustness))


def exact_curves(
    world: World,
    prompts: Sequence[str],
    temperatures: Sequence[float],
    policies: Mapping[str, Sequence[Table]],
    baseline: tuple[str, Table],
    *,
    judge: str,
) -> Curves:
    """Win rates without samples, in a world whose responses can be enumerated.

    Args:
      world: The world that gives the rewards.
      prompts: The prompts of the world that are counted.
      temperatures: Rising, two at least.
      policies: For each its table at each temperature, from `policy_table`.
      baseline: Name and table of the policy that they are compared with.
      judge: Name of the judge.
    """
    rows = [world.prompts.index(prompt) for prompt in prompts]
    values = reward_table(world)[rows]
    points: list[Temperature] = []
    robustness = []
    for name, tables in policies.items():
        rates = [win_rate(table[rows], baseline[1][rows], values) for table in tables]
        for temperature, rate in zip(temperatures, rates, strict=True):
            points.append(Temperature(name=name, temperature=temperature, value=rate))
        area, drop = float(_areas(temperatures, np.array([rates]))[0]), max(rates) - rates[-1]
        best = temperatures[int(np.argmax(rates))]
        robustness.append(Robustness(name, Estimate(area, area, area), best, Estimate(drop, drop, drop)))
    return Curves(baseline[0], judge, len(rows), None, tuple(points), tuple(robustness))


def policy_table(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, temperature: float) -> Table:
    """Log-probs of every outcome of a world under a model at a temperature; at 0 all mass is on the greedy response.

    Raises:
      ModelError: a word of the world is not one token of this tokenizer.
      ConfigError: the world has too many outcomes.
    """
    if temperature > 0:
        return outcome_logps(model, tokenizer, world, temperature=temperature)
    world.require_countable()
    ids = [tokenizer(prompt)["input_ids"] for prompt in world.prompts]
    table = np.full((len(ids), world.num_outcomes), -np.inf)
    for row, generation in enumerate(generate(model, tokenizer, ids, Sampling(world.max_words, 0.0))):
        table[row, world.outcome(generation.text)] = 0.0
    return table


def sum_up(name: str, temperatures: Sequence[float], values: Float[np.ndarray, "X T"], *, seed: int) -> Robustness:
    """Area and drop of a curve with 95 % intervals by prompt.

    That of the drop is a percentile bootstrap, in which prompts are resampled with their whole curves; over few prompts
    it is too narrow.

    Args:
      name: Name of the policy.
      temperatures: Rising, two at least, [T].
      values: Value of each prompt at each temperature, in [0, 1].
      seed: Seed of the resampling.
    """
    means = values.mean(axis=0)
    again = resampled_means(values, seed=seed)
    low, high = np.quantile(again.max(axis=1) - again[:, -1], [0.025, 0.975])
    areas = np.clip(_areas(temperatures, values), 0, 1)
    return Robustness(
        name,
        share_interval(areas),
        temperatures[int(means.argmax())],
        Estimate(float(means.max() - means[-1]), float(low), float(high)),
        tuple(areas.tolist()),
    )


def lead(curve: Robustness, other: Robustness) -> Estimate:
    """By how much the area of one curve is larger than that of another, with a 95 % interval over their prompts."""
    gap = curve.area.value - other.area.value
    if not curve.areas:
        return Estimate(gap, gap, gap)
    return mean_interval(np.array(curve.areas) - np.array(other.areas))


def _areas(temperatures: Sequence[float], values: Float[np.ndarray, "X T"]) -> Float[np.ndarray, " X"]:
    """The area under each row, by trapezoids, divided by the span."""
    return np.asarray(trapezoid(values, temperatures, axis=1)) / (temperatures[-1] - temperatures[0])

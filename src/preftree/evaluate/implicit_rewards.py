"""A policy as a reward model: beta * logratio on pairs, beside the rewards of a model that was trained to give them.

Rafailov et al. 2023, arXiv:2305.18290, Section 4: the policy of DPO is the optimum of the reward beta * (log-prob minus
reference log-prob), up to a constant per prompt, which pairs do not see.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config
from preftree.data.store.end_marked import EndStore
from preftree.data.store.store import TokenStore
from preftree.data.tokens.budgets import Budgets, Truncation
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import ConfigError, DataError
from preftree.evaluate.along_training import load_reference
from preftree.judges.functions import identify
from preftree.judges.reward_model import find_reward_model
from preftree.models.load import best_device, load_tokenizer
from preftree.models.reward_model import load_reward_model, padding_of
from preftree.run_folder.reader import Run
from preftree.runtime.paths import cache_root
from preftree.runtime.ranks import open_ranks
from preftree.scoring.pair_sums import response_values
from preftree.scoring.reward_scorer import RewardScorer
from preftree.stats.calibration import Calibration, calibration
from preftree.stats.intervals import Estimate, resampled_means
from preftree.train.policy import load_frozen

FEW = 20
"""Prompts below which they are too few to draw again, and pairs are drawn again instead."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """How a source of rewards ranks the pairs of a file.

    Attributes:
      accuracy: Weighted share of pairs whose chosen response has the larger reward, equal ones half; 95 % interval.
      calibration: Of sigmoid(difference of rewards) as the chance of the label.
    """

    accuracy: Estimate
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Compared:
    """Sources of rewards on the pairs of one file.

    Attributes:
      data: The file.
      num_pairs: Pairs that all sources can read; ties are none.
      num_prompts: Different prompts of theirs.
      resampled: What the bootstrap draws again: prompts, or pairs where prompts are few.
      implicit: The policy.
      explicit: The reward model, where there is one.
      difference: Implicit minus explicit accuracy, paired, with a 95 % interval.
    """

    data: str
    num_pairs: int
    num_prompts: int
    resampled: Literal["prompts", "pairs"]
    implicit: Ranked
    explicit: Ranked | None
    difference: Estimate | None

    def as_json(self) -> dict[str, Any]:
        """As RUN/rewards.json has it."""
        said: dict[str, Any] = {name: getattr(self, name) for name in ("data", "num_pairs", "num_prompts", "resampled")}
        for name, own in (("implicit", self.implicit), ("explicit", self.explicit)):
            said[name] = own and {"accuracy": own.accuracy._asdict(), **_plain(own.calibration)}
        return said | {"difference": self.difference and self.difference._asdict()}


def compare_rewards(run: Run, files: list[str], *, against: str | None = None, seed: int = 0) -> list[Compared]:
    """Accuracy and calibration of a run's implicit rewards, and of a reward model's, on the pairs of files.

    Args:
      run: A finished `preftree dpo` run.
      files: Pairs; each is read by both with their own tokenizers and lengths.
      against: A reward model: `rm:PATH`, or a path.
      seed: Of the bootstrap.
    Raises:
      DataError: the run is not finished or not of pairs, or a file holds no pair that all can read.
      ConfigError: `against` is no reward model, or the run's loss has no beta.
    """
    if not run.summary or run.recipe.name != "dpo":
        raise DataError(f"{run.path} holds no finished run of `preftree dpo`; give one, whose rewards are implicit")
    config = check_config(DpoConfig, run.config)
    beta = config.beta
    if beta is None:
        raise ConfigError(f"loss {config.loss_label} of {run.path} has no beta, so its policy implies no reward")
    place = None if against is None else find_reward_model(against)
    if against is not None and (place is None or place.label is not None):
        raise ConfigError(f"against must name the folder of a reward model, got {against!r}")
    tokenizer, budget = load_tokenizer(run.path / "model"), config.micro_batch_tokens
    implicit: list[_Values] = []
    with open_ranks() as ranks:
        policy, _ = load_frozen(str(run.path / "model"), config.model_copy(update={"compile": False}), ranks)
        reference = load_reference(run, config, ranks)
        lengths = Budgets(config.max_length, config.max_prompt_length, config.max_response_length)
        for file in files:
            store = _open(file, tokenizer, lengths, config.truncation, config.data.format)
            rows = np.flatnonzero(~store.ties)
            values = [
                response_values(one, store, rows, budget=config.micro_batch_tokens) for one in (policy, reference)
            ]
            implicit.append(_Values.of(store, rows, beta * (values[0] - values[1])))
        del policy, reference
    explicit: list[_Values | None] = [None] * len(files)
    if place is not None:
        scorer = RewardScorer(load_reward_model(place.model, device=best_device()))
        own = load_tokenizer(place.model)
        told = dict(getattr(scorer.model.config, "preftree_lengths", {}))
        policy_of: Truncation = told.pop("truncation", "drop")
        for number, file in enumerate(files):
            store = _open(file, own, Budgets(**told), policy_of, config.data.format)
            rows = np.flatnonzero(~store.ties)
            marked = EndStore(store, padding_of(scorer.model))
            values = response_values(scorer, marked, rows, budget=budget)
            explicit[number] = _Values.of(store, rows, values)
    return [_compare(file, *both, seed) for file, both in zip(files, zip(implicit, explicit, strict=True), strict=True)]


def rewards_json(run: Run, found: list[Compared], against: str | None) -> dict[str, Any]:
    """What RUN/rewards.json holds."""
    name = None if against is None else identify(against)
    return {"beta": run.config["beta"], "against": name, "data": [one.as_json() for one in found]}


@dataclass(frozen=True, slots=True)
class _Values:
    """Differences of rewards of pairs by where they stand: (row, number of the pair in its row)."""

    margins: dict[tuple[str, int], float]
    weights: dict[tuple[str, int], float]
    prompts: dict[tuple[str, int], int]
    sizes: Counter[str]

    @staticmethod
    def of(store: TokenStore, rows: np.ndarray, values: Float[np.ndarray, "N 2"]) -> _Values:
        sizes: Counter[str] = Counter()
        keys = []
        for row in rows.tolist():
            place = str(store.provenance(row))
            keys.append((place, sizes[place]))
            sizes[place] += 1
        margins = (values[:, 0] - values[:, 1]).tolist()
        weights, prompts = store.weights[rows].tolist(), store.prompts[rows].tolist()
        margin_of, weight_of = (dict(zip(keys, own, strict=True)) for own in (margins, weights))
        return _Values(margin_of, weight_of, dict(zip(keys, prompts, strict=True)), sizes)


def _open(file: str, tokenizer: Any, lengths: Budgets, truncation: Truncation, form: str | None) -> TokenStore:
    store, _ = tokenize_file(
        file,
        tokenizer,
        kind="preference",
        cache_dir=cache_root(),
        budgets=lengths,
        truncation=truncation,
        format_name=form,
    )
    return store


def _compare(file: str, implicit: _Values, explicit: _Values | None, seed: int) -> Compared:
    # A row of which one source cannot read every pair is left out for both.
    keys = [key for key in implicit.margins if explicit is None or explicit.sizes[key[0]] == implicit.sizes[key[0]]]
    if len(keys) < 2:
        raise DataError(f"{file} holds {len(keys)} pairs that can be compared, wanted two; give pairs that are no ties")
    weights = np.array([implicit.weights[key] for key in keys])
    prompts, group = np.unique([implicit.prompts[key] for key in keys], return_inverse=True)
    sources = [np.array([own.margins[key] for key in keys]) for own in (implicit, explicit) if own is not None]
    right = np.stack([(1 + np.sign(margins)) / 2 for margins in sources])
    few = len(prompts) < FEW
    clusters = np.arange(len(keys)) if few else group
    sums = [np.bincount(clusters, weights * column) for column in (*right, np.ones(len(keys)))]
    means = resampled_means(np.stack(sums, axis=1), seed=seed)
    drawn = means[:, :-1] / means[:, -1:]
    accuracy = (right * weights).sum(1) / weights.sum()
    ranked = [
        Ranked(_between(float(value), own), calibration(expit(margins), weights))
        for value, own, margins in zip(accuracy, drawn.T, sources, strict=True)
    ]
    difference = None
    if explicit is not None:
        difference = _between(float(accuracy[0] - accuracy[1]), drawn[:, 0] - drawn[:, 1])
    other = ranked[1] if explicit is not None else None
    return Compared(file, len(keys), len(prompts), "pairs" if few else "prompts", ranked[0], other, difference)


def _between(value: float, drawn: Float[np.ndarray, " R"]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _plain(found: Calibration) -> dict[str, Any]:
    bins = [one._asdict() for one in found.bins]
    return {"calibration_error": found.error, "brier": found.brier, "log_score": found.log_score, "reliability": bins}

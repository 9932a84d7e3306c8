"""Implicit rewards of a policy (beta * logratio) on pairs, compared with those of a trained reward model.

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
"""Number of prompts below which the bootstrap resamples pairs instead of prompts."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Accuracy and calibration of a source of rewards on the pairs of a file.

    Attributes:
      accuracy: Weighted share of pairs whose chosen response has the larger reward, equal ones half; 95 % interval.
      calibration: Calibration of sigmoid(difference of rewards) as the probability of the label.
    """

    accuracy: Estimate
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Compared:
    """Sources of rewards on the pairs of one file.

    Attributes:
      data: The file.
      num_pairs: Pairs that all sources can read, without ties.
      num_prompts: Number of different prompts.
      resampled: Unit of the bootstrap: prompts, or pairs where there are few prompts.
      implicit: Figures of the policy.
      explicit: Figures of the reward model, where there is one.
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
        """This comparison in the form of RUN/rewards.json."""
        fields: dict[str, Any] = {
            name: getattr(self, name) for name in ("data", "num_pairs", "num_prompts", "resampled")
        }
        for name, source in (("implicit", self.implicit), ("explicit", self.explicit)):
            fields[name] = source and {"accuracy": source.accuracy._asdict(), **_plain(source.calibration)}
        return fields | {"difference": self.difference and self.difference._asdict()}


def compare_rewards(run: Run, files: list[str], *, against: str | None = None, seed: int = 0) -> list[Compared]:
    """Accuracy and calibration of a run's implicit rewards, and of a reward model's, on the pairs of files.

    Args:
      run: A finished `preftree dpo` run.
      files: Pairs; each is read by both with their own tokenizers and lengths.
      against: A reward model: `rm:PATH`, or a path.
      seed: Seed of the bootstrap.
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
    named = None if against is None else find_reward_model(against)
    if against is not None and (named is None or named.label is not None):
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
                response_values(scorer_of, store, rows, budget=config.micro_batch_tokens)
                for scorer_of in (policy, reference)
            ]
            implicit.append(_Values.of(store, rows, beta * (values[0] - values[1])))
        del policy, reference
    explicit: list[_Values | None] = [None] * len(files)
    if named is not None:
        scorer = RewardScorer(load_reward_model(named.model, device=best_device()))
        reward_tokenizer = load_tokenizer(named.model)
        reward_lengths = dict(getattr(scorer.model.config, "preftree_lengths", {}))
        policy_of: Truncation = reward_lengths.pop("truncation", "drop")
        for number, file in enumerate(files):
            store = _open(file, reward_tokenizer, Budgets(**reward_lengths), policy_of, config.data.format)
            rows = np.flatnonzero(~store.ties)
            marked = EndStore(store, padding_of(scorer.model))
            values = response_values(scorer, marked, rows, budget=budget)
            explicit[number] = _Values.of(store, rows, values)
    return [_compare(file, *both, seed) for file, both in zip(files, zip(implicit, explicit, strict=True), strict=True)]


def rewards_json(run: Run, compared: list[Compared], against: str | None) -> dict[str, Any]:
    """Content of RUN/rewards.json."""
    name = None if against is None else identify(against)
    return {"beta": run.config["beta"], "against": name, "data": [file.as_json() for file in compared]}


@dataclass(frozen=True, slots=True)
class _Values:
    """Differences of rewards of pairs, by (row, number of the pair within the row)."""

    margins: dict[tuple[str, int], float]
    weights: dict[tuple[str, int], float]
    prompts: dict[tuple[str, int], int]
    sizes: Counter[str]

    @staticmethod
    def of(store: TokenStore, rows: np.ndarray, values: Float[np.ndarray, "N 2"]) -> _Values:
        sizes: Counter[str] = Counter()
        keys = []
        for row in rows.tolist():
            row_name = str(store.provenance(row))
            keys.append((row_name, sizes[row_name]))
            sizes[row_name] += 1
        margins = (values[:, 0] - values[:, 1]).tolist()
        weights, prompts = store.weights[rows].tolist(), store.prompts[rows].tolist()
        margin_of, weight_of = (dict(zip(keys, column, strict=True)) for column in (margins, weights))
        return _Values(margin_of, weight_of, dict(zip(keys, prompts, strict=True)), sizes)


def _open(file: str, tokenizer: Any, lengths: Budgets, truncation: Truncation, form: str | None) -> TokenStore:
    store, _ = tokenize_file(
        file,
        tokenizer,
        kind="pair",
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
    sources = [np.array([source.margins[key] for key in keys]) for source in (implicit, explicit) if source is not None]
    right = np.stack([(1 + np.sign(margins)) / 2 for margins in sources])
    few = len(prompts) < FEW
    clusters = np.arange(len(keys)) if few else group
    sums = [np.bincount(clusters, weights * column) for column in (*right, np.ones(len(keys)))]
    means = resampled_means(np.stack(sums, axis=1), seed=seed)
    drawn = means[:, :-1] / means[:, -1:]
    accuracy = (right * weights).sum(1) / weights.sum()
    ranked = [
        Ranked(_between(float(value), source), calibration(expit(margins), weights))
        for value, source, margins in zip(accuracy, drawn.T, sources, strict=True)
    ]
    difference = None
    if explicit is not None:
        difference = _between(float(accuracy[0] - accuracy[1]), drawn[:, 0] - drawn[:, 1])
    other = ranked[1] if explicit is not None else None
    return Compared(file, len(keys), len(prompts), "pairs" if few else "prompts", ranked[0], other, difference)


def _between(value: float, drawn: Float[np.ndarray, " R"]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _plain(fit: Calibration) -> dict[str, Any]:
    bins = [bin._asdict() for bin in fit.bins]
    return {
        "calibration_error": fit.error,
        "brier": fit.brier,
        "log_score": fit.log_score,
        "reliability": bins,
    }

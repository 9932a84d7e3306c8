"""Implicit rewards of a policy (beta * logratio) on pairs, compared with those of a trained reward model.

Rafailov et al. 2023, arXiv:2305.18290, Section 4: the policy of DPO is the optimum of the reward beta * (log-prob minus
reference log-prob), up to a constant per prompt, which pairs do not see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit
from transformers import PreTrainedTokenizerBase

from preftree.config.base import DataSource
from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config
from preftree.data.rows.columns import parse_columns
from preftree.data.store.end_marked import EndMarkedStore
from preftree.data.store.example import NO_PROMPT
from preftree.data.store.token_store import TokenStore
from preftree.data.tokens.budgets import Budgets, Truncation
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import ConfigError, DataError
from preftree.evaluate.along_training import load_reference
from preftree.judges.functions import identify
from preftree.judges.reward_model import find_reward_model, lengths_of
from preftree.models.load import load_tokenizer
from preftree.models.reward_model import load_reward_model, padding_of
from preftree.run_folder.reader import Run
from preftree.runtime.machine import best_device
from preftree.runtime.paths import cache_root
from preftree.runtime.ranks import open_ranks
from preftree.scoring.pair_sums import response_values
from preftree.scoring.reward_scorer import RewardScorer
from preftree.stats.calibration import Calibration, calibration
from preftree.stats.intervals import Estimate, clustered_mean, clustered_share
from preftree.train.policy import load_frozen
from preftree.train.step_model import step_folder


@dataclass(frozen=True, slots=True)
class Ranked:
    """Accuracy and calibration of a source of rewards on the pairs of a file.

    Attributes:
      accuracy: Weighted share of pairs whose chosen response has the larger reward, equal ones half; 95 % interval
        by prompt.
      calibration: Calibration of sigmoid(difference of rewards) as the probability of the label.
    """

    accuracy: Estimate
    calibration: Calibration

    def as_json(self) -> dict[str, Any]:
        """These figures in the form of RUN/rewards.json."""
        fit = self.calibration
        return {
            "accuracy": self.accuracy._asdict(),
            "calibration_error": fit.error,
            "brier": fit.brier,
            "log_score": fit.log_score,
            "reliability": [bin._asdict() for bin in fit.bins],
        }


@dataclass(frozen=True, slots=True)
class Compared:
    """Sources of rewards on the pairs of one file.

    Attributes:
      data: The file.
      num_pairs: Pairs that all sources can read, without ties.
      num_prompts: Number of different prompts.
      implicit: Figures of the policy.
      explicit: Figures of the reward model, where there is one.
      difference: Implicit minus explicit accuracy on the same pairs, with a 95 % interval by prompt; None where all
        pairs are of one prompt, which says nothing of others.
    """

    data: str
    num_pairs: int
    num_prompts: int
    implicit: Ranked
    explicit: Ranked | None
    difference: Estimate | None

    def as_json(self) -> dict[str, Any]:
        """This comparison in the form of RUN/rewards.json."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("data", "num_pairs", "num_prompts")}
        for name, source in (("implicit", self.implicit), ("explicit", self.explicit)):
            fields[name] = source and source.as_json()
        return fields | {"difference": self.difference and self.difference._asdict()}


def compare_rewards(
    run: Run, files: list[str], *, against: str | None = None, step: str | None = None
) -> list[Compared]:
    """Accuracy and calibration of a run's implicit rewards, and of a reward model's, on the pairs of files.

    Args:
      run: A finished `preftree dpo` run.
      files: Pairs; each is read by both with their own tokenizers and lengths.
      against: A reward model: `rm:PATH`, or a path.
      step: A step of the run whose weights are on disk; None is its end.
    Raises:
      DataError: the run is not finished, not of pairs or has no such step, or a file holds no pair that all can read.
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
    budget, source = config.micro_batch_tokens, config.data
    implicit: list[_Margins] = []
    with open_ranks() as ranks:
        model = str(run.path / "model") if step is None else str(step_folder(run.path, step))
        policy, _ = load_frozen(model, config.model_copy(update={"compile": False}), ranks)
        reference = load_reference(run, config, ranks)
        lengths = Budgets(config.max_length, config.max_prompt_length, config.max_response_length)
        tokenizer = load_tokenizer(run.path / "model")
        for file in files:
            store, rows = _open(file, tokenizer, lengths, config.truncation, source)
            ours, theirs = (response_values(scorer, store, rows, budget=budget) for scorer in (policy, reference))
            implicit.append(_margins(store, rows, beta * (ours - theirs)))
        del policy, reference
    explicit: list[_Margins | None] = [None] * len(files)
    if named is not None:
        scorer = RewardScorer(load_reward_model(named.model, device=best_device()))
        tokenizer = load_tokenizer(named.model)
        lengths, truncation = lengths_of(scorer.model)
        for number, file in enumerate(files):
            store, rows = _open(file, tokenizer, lengths, truncation, source)
            marked = EndMarkedStore(store, padding_of(scorer.model))
            explicit[number] = _margins(store, rows, response_values(scorer, marked, rows, budget=budget))
    return [_compare(file, *both) for file, both in zip(files, zip(implicit, explicit, strict=True), strict=True)]


def rewards_json(run: Run, compared: list[Compared], against: str | None) -> dict[str, Any]:
    """Content of RUN/rewards.json."""
    name = None if against is None else identify(against)
    return {"beta": run.config["beta"], "against": name, "data": [file.as_json() for file in compared]}


class _Pair(NamedTuple):
    """A pair's difference of rewards, its weight, and the number of its prompt."""

    margin: float
    weight: float
    prompt: int


_Margins: TypeAlias = dict[str, list[_Pair]]
"""The pairs of each row of a file, by the row's name."""


def _margins(store: TokenStore, rows: Int[np.ndarray, " N"], values: Float[np.ndarray, "N 2"]) -> _Margins:
    pairs: _Margins = {}
    columns = (values[:, 0] - values[:, 1]).tolist(), store.weights[rows].tolist(), store.prompts[rows].tolist()
    for row, *pair in zip(rows.tolist(), *columns, strict=True):
        pairs.setdefault(str(store.provenance(row)), []).append(_Pair(*pair))
    return pairs


def _open(
    file: str, tokenizer: PreTrainedTokenizerBase, lengths: Budgets, truncation: Truncation, source: DataSource
) -> tuple[TokenStore, Int[np.ndarray, " N"]]:
    """The pairs of a file, and the rows that are no ties."""
    store, _ = tokenize_file(
        file,
        tokenizer,
        kind="pair",
        cache_dir=cache_root(),
        budgets=lengths,
        truncation=truncation,
        format_name=source.format,
        columns=parse_columns(source.columns) if source.columns else None,
    )
    return store, np.flatnonzero(~store.ties)


def _compare(file: str, implicit: _Margins, explicit: _Margins | None) -> Compared:
    # A row of which one source cannot read every pair is left out for both.
    rows = [row for row, pairs in implicit.items() if explicit is None or len(explicit.get(row, ())) == len(pairs)]
    pairs = [pair for row in rows for pair in implicit[row]]
    if len(pairs) < 2:
        raise DataError(
            f"{file} holds {len(pairs)} pairs that can be compared, wanted two; give pairs that are no ties"
        )
    weights = np.array([pair.weight for pair in pairs])
    # A pair without a prompt stands alone.
    names = [pair.prompt if pair.prompt != NO_PROMPT else f"pair {number}" for number, pair in enumerate(pairs)]
    prompts, group = np.unique([str(name) for name in names], return_inverse=True)
    read = [implicit] if explicit is None else [implicit, explicit]
    sources = [np.array([pair.margin for row in rows for pair in source[row]]) for source in read]
    right = [(1 + np.sign(margins)) / 2 for margins in sources]
    ranked = [
        Ranked(clustered_share(column, weights, group), calibration(expit(margins), weights))
        for column, margins in zip(right, sources, strict=True)
    ]
    other = difference = None
    if explicit is not None:
        other = ranked[1]
        difference = clustered_mean(right[0] - right[1], weights, group) if len(prompts) > 1 else None
    return Compared(file, len(pairs), len(prompts), ranked[0], other, difference)

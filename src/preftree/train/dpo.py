"""DPO and its family: pairs, a loss from the table, and a reference that is a table of log-probs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.config.schema import DpoConfig
from preftree.data.store import TokenExample
from preftree.distributed.reduce import lead_first
from preftree.distributed.world import open_world
from preftree.errors import ConfigError
from preftree.losses.inputs import ResponseLogps
from preftree.losses.mean import weigh
from preftree.losses.metrics import pair_metrics
from preftree.losses.pairs import pair_up
from preftree.losses.table import BoundLoss, bind, find, unit_of
from preftree.models.load import load_tokenizer
from preftree.reference.build import BuildReport, build_reference
from preftree.reference.gate import verify_start
from preftree.reference.key import cache_root, table_key
from preftree.reference.store import ReferenceTable
from preftree.scoring.forward import Scorer
from preftree.stats import wilson
from preftree.train import run
from preftree.train.folder import claim_folder, find_start
from preftree.train.heat import keep_token_rewards
from preftree.train.loop import Outcome
from preftree.train.rows import PromptGroups, probe_rows
from preftree.train.step import Examples, Task, Values
from preftree.train.track import SECONDS_BETWEEN_LINES
from preftree.tree.segment import sum_responses

log = logging.getLogger("preftree")

COLUMNS = (
    "loss",
    "accuracy",
    "margin",
    "chosen_rewards",
    "rejected_rewards",
    "chosen_logps",
    "rejected_logps",
    "chosen_logratio",
    "rejected_logratio",
    "grad_weight",
    "chosen_tokens",
    "rejected_tokens",
)


def pair_task(examples: Examples, loss: BoundLoss, table: ReferenceTable, *, held_out: bool = False) -> Task:
    """Pairs under a loss, against the reference log-probs of a table; nothing here can compute one.

    Args:
      examples: Pairs: two sequences each, the chosen one first.
      loss: A bound loss of pairs.
      table: Holds the reference log-probs of every response.
      held_out: Whether the figures come with a 95 % Wilson interval of the accuracy.
    """

    def value(policy: ResponseLogps, some: Sequence[TokenExample]) -> Values:
        sequences = [sequence for example in some for sequence in example.sequences]
        # Summed by the same function, in the same order and on the same device as the policy's.
        tokens = torch.from_numpy(table.gather(sequences)).to(policy.logps.device)
        ref = sum_responses(tokens, policy.num_tokens)
        chosen = torch.arange(0, len(sequences), 2, device=policy.logps.device)
        given = {
            "policy": pair_up(policy.logps, policy.num_tokens, chosen, chosen + 1),
            "ref": pair_up(ref.logps, ref.num_tokens, chosen, chosen + 1),
        }
        return Values(loss(**{name: given[name] for name in loss.inputs}), pair_metrics(loss, given))

    def divisor(rows: Int[np.ndarray, " B"]) -> float:
        return float(examples.weights[rows].sum())

    def figures(columns: Mapping[str, Float[Tensor, " B"]], rows: Int[np.ndarray, " B"]) -> dict[str, float]:
        weights = examples.weights[rows]
        means = weigh(columns, torch.from_numpy(weights)).mean(divisor(rows))
        if held_out:
            # Unequal weights tell less than as many equal ones: Kish's effective number of pairs.
            trials = max(1, math.floor(weights.sum() ** 2 / (weights**2).sum() + 1e-9))
            _, means["accuracy_low"], means["accuracy_high"] = wilson(means["accuracy"] * trials, trials)
        return means

    return Task("pairs", examples, COLUMNS, value, divisor, figures)


def bind_loss(config: DpoConfig) -> tuple[DpoConfig, BoundLoss]:
    """The loss that the options name; the options with the beta that it uses.

    Raises:
      ConfigError: no such loss, or not of pairs; an option that it does not take, lacks, or that is out of its range.
    """
    name, options = config.loss.name, dict(config.loss.options)
    try:
        if unit_of(find(name)) != "pair":
            raise ConfigError(f"loss {name!r} is of single responses, not of pairs; see `preftree losses`")
        if config.beta is not None:
            options["beta"] = config.beta
        loss = bind(name, options)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return config.model_copy(update={"beta": loss.options.get("beta")}), loss


def run_dpo(config: DpoConfig) -> Outcome:
    """Everything `preftree dpo` does, from its options to RUN/model.

    Raises:
      UserError: something outside the program is wrong; the sentence says what to do.
    """
    config, loss = bind_loss(config)
    with open_world() as world, claim_folder(config, world):
        setup = run.prepare(config, world, find_start(config, world))
        table, reference = open_table(setup)
        path = run.trajectory(
            setup,
            {"recipe": "dpo", "loss": loss.name, **loss.options, "weights of the reference": table.key.weights},
        )
        done = run.admit(setup, path)
        if done is not None:
            return done
        fill_table(setup, table, reference)
        del reference  # another model's weights are not needed again
        if setup.start is None and config.reference == "start":
            groups = [setup.data.train.store[row].sequences for row in probe_rows(setup.data.train)]
            gate = verify_start(setup.scorer, table, groups, budget=config.micro_batch_tokens)
            log.info("policy equals reference: %.1e nats of %.1e allowed", gate.largest_logratio, gate.tolerance)
        outcome = run.execute(setup, lambda store, held_out: pair_task(store, loss, table, held_out=held_out), path)
        if not outcome.signum and world.leads:
            keep_token_rewards(setup, table, config.beta or 1.0)
        return outcome


def build_reference_table(config: DpoConfig) -> BuildReport:
    """Everything `preftree ref build` does: the table that `run_dpo` with these options reads, and no training."""
    config, _ = bind_loss(config)
    with open_world() as world:
        setup = run.prepare(config, world, None)
        table, reference = open_table(setup)
        return fill_table(setup, table, reference)


def open_table(setup: run.Setup[DpoConfig]) -> tuple[ReferenceTable, Scorer]:
    """The table of the run's reference, and the model that fills it: the policy as it was loaded, or another one.

    Raises:
      ConfigError: the other model has another vocabulary.
    """
    config = setup.config
    scorer, weights = setup.scorer, setup.weights
    if config.reference != "start":
        if load_tokenizer(config.reference).get_vocab() != setup.tokenizer.get_vocab():
            raise ConfigError(
                f"reference={config.reference} has another vocabulary than model={config.model}, so it cannot score "
                "the same tokens; give a model with the same tokenizer"
            )
        scorer = run.load_scorer(config.reference, config, setup.world)
        weights = run.digest_weights(config.reference, scorer, config)
    table = ReferenceTable.open(Path(config.cache or cache_root()), table_key(weights, scorer.numeric_mode))
    for sentence in table.set_aside:
        log.warning("%s", sentence)
    return table, scorer


def fill_table(setup: run.Setup[DpoConfig], table: ReferenceTable, reference: Scorer) -> BuildReport:
    """Score what the table lacks of the training and the held-out pairs; rank 0 does it, the others then find it."""

    def fill() -> BuildReport:
        total = BuildReport()
        for part in (setup.data.train, setup.data.held_out) if setup.world.leads else ():
            if part is not None:
                groups = PromptGroups(part)
                done = build_reference(
                    table,
                    reference,
                    groups,
                    budget=setup.config.micro_batch_tokens,
                    name=groups.name,
                    progress=_now_and_then(),
                    say=lambda sentence: log.info("%s", sentence),
                )
                total = BuildReport(*(a + b for a, b in zip(astuple(total), astuple(done), strict=True)))
        table.refresh()
        return total

    report = lead_first(setup.world, fill)
    log.info(
        "reference: %d responses scored in %d forwards (%.1f s), %d known from earlier",
        report.num_scored,
        report.num_forwards,
        report.seconds,
        report.num_cached,
    )
    return report


def _now_and_then() -> Callable[[BuildReport], None]:
    """Say how far a build is, every 20 seconds."""
    told = 0.0

    def tell(report: BuildReport) -> None:
        nonlocal told
        if report.seconds - told >= SECONDS_BETWEEN_LINES:
            told = report.seconds
            log.info("reference: %d responses scored, %.0f s", report.num_scored, report.seconds)

    return tell

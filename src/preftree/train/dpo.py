"""DPO and its family: preferences, losses of the table, and a reference that is a table of log-probs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

from preftree.config.dpo import DpoConfig
from preftree.data.store.store import Examples
from preftree.errors import ConfigError
from preftree.evaluate.token_rewards import keep_token_rewards
from preftree.losses.registry import BoundLoss
from preftree.reference.build import BuildReport, build_reference
from preftree.reference.gate import verify_live_start, verify_start
from preftree.reference.key import table_key
from preftree.reference.moving import Follower
from preftree.reference.store import ReferenceTable
from preftree.run_folder.metrics import SECONDS_BETWEEN_LINES
from preftree.run_folder.writer import claim_folder, find_start
from preftree.runtime.paths import cache_root
from preftree.runtime.ranks import open_ranks
from preftree.runtime.reduce import lead_first
from preftree.scoring.vocabulary import LiveReference
from preftree.train import open_run as run
from preftree.train.dataset import PromptGroups, probe_rows
from preftree.train.loop import Outcome
from preftree.train.objective import Objective, Part, bind_objective
from preftree.train.policy import Reference, find_live_reference, find_reference
from preftree.train.preference import preference_task, table_reference
from preftree.train.step.task import Task

log = logging.getLogger("preftree")


def pair_task(examples: Examples, loss: BoundLoss, table: ReferenceTable, *, held_out: bool = False) -> Task:
    """The task of one loss against the reference log-probs of a table; arguments as of `preference_task`."""
    return preference_task(examples, Objective((Part(loss),)), table_reference(table), held_out=held_out)


def run_dpo(config: DpoConfig) -> Outcome:
    """Everything `preftree dpo` does, from its options to RUN/model.

    Raises:
      UserError: something outside the program is wrong; the sentence says what to do.
    """
    config, objective = bind_objective(config)
    with open_ranks() as ranks, claim_folder(config, ranks):
        setup = run.prepare(config, ranks, find_start(config, ranks))
        table, reference = _open_reference(setup, objective)
        identity = {} if reference is None else {"weights of the reference": reference.weights}
        if schedule := config.reference_schedule:
            identity |= {"reference.sync_every": schedule.sync_every, "reference.mixup": schedule.mixup}
        path = run.trajectory(setup, {"recipe": "dpo", **objective.identity, **identity})
        done = run.admit(setup, path)
        if done is not None:
            return done
        words, live, follower = "none" if reference is None else reference.words, None, None
        if table is not None and reference is not None:
            fill_table(setup, table, reference)
            _check_start(setup, table, reference)
        elif reference is not None:
            kind = "the policy without its adapter" if reference.without_adapter else "a second model in memory"
            log.info("the reference scores beside the policy, in every step: %s", kind)
            live = reference.active
            _check_start(setup, live, reference)
            if schedule:
                follower = Follower(reference.scorer.model, schedule.sync_every, schedule.mixup)
        else:
            log.info("loss %s compares with no reference: none is computed", objective.label)
        del reference  # another model's weights are not needed again, unless it is live
        stored = None if table is None else table_reference(table)
        outcome = run.execute(
            setup,
            lambda store, held_out: preference_task(store, objective, stored, live=live, held_out=held_out),
            path,
            reference=words,
            follower=follower,
        )
        beta = objective.lead.options.get("beta")
        if (
            table is not None
            and objective.unit == "pair"
            and isinstance(beta, float)
            and not outcome.signum
            and ranks.leads
        ):
            keep_token_rewards(setup, table, beta)
        return outcome


def _open_reference(
    setup: run.Setup[DpoConfig], objective: Objective
) -> tuple[ReferenceTable, Reference] | tuple[None, Reference | None]:
    """The run's reference, with its table unless it has to be live: for a KL over the vocabulary, or since it moves."""
    if not objective.needs_reference:
        return None, None
    config = setup.config
    if "kl" in objective.inputs or config.reference_schedule is not None:
        return None, find_live_reference(config, setup.policy, setup.tokenizer, setup.ranks)
    return open_table(setup)


def _check_start(setup: run.Setup[DpoConfig], scored: ReferenceTable | LiveReference, reference: Reference) -> None:
    """A policy that has not left its reference must agree with it; says so where it has."""
    if setup.start is not None:
        log.info("not compared with the reference: this run goes on from step %d", setup.start.step)
        return
    if not reference.is_start:
        log.info("not compared with the reference: it is %s, and the run starts elsewhere", reference.words)
        return
    groups = [setup.data.train.store[row].sequences for row in probe_rows(setup.data.train)]
    budget = setup.config.micro_batch_tokens
    if isinstance(scored, ReferenceTable):
        gate = verify_start(setup.scorer, scored, groups, budget=budget)
    else:
        gate = verify_live_start(setup.scorer, scored, groups, budget=budget)
    log.info("policy equals reference: %.1e nats of %.1e allowed", gate.largest_logratio, gate.tolerance)


def build_reference_table(config: DpoConfig) -> BuildReport:
    """Everything `preftree ref build` does: the table that `run_dpo` with these options reads, and no training."""
    config, objective = bind_objective(config)
    if not objective.needs_reference:
        raise ConfigError(f"loss {objective.label} compares with no reference: there is no table to build")
    if "kl" in objective.inputs or config.reference_schedule is not None:
        raise ConfigError("this reference scores beside the policy in every step: there is no table to build")
    with open_ranks() as ranks:
        setup = run.prepare(config, ranks, None)
        table, reference = open_table(setup)
        return fill_table(setup, table, reference)


def open_table(setup: run.Setup[DpoConfig]) -> tuple[ReferenceTable, Reference]:
    """The table of the run's reference, and what fills it: the policy as it was loaded, or another model.

    Raises:
      ConfigError: the other model has another vocabulary.
    """
    config = setup.config
    reference = find_reference(config, setup.policy, setup.tokenizer, setup.ranks)
    key = table_key(reference.weights, reference.scorer.numeric_mode)
    table = ReferenceTable.open(Path(config.cache or cache_root()), key)
    for sentence in table.set_aside:
        log.warning("%s", sentence)
    return table, reference


def fill_table(setup: run.Setup[DpoConfig], table: ReferenceTable, reference: Reference) -> BuildReport:
    """Score what the table lacks of the training and the held-out pairs; rank 0 does it, the others then find it."""

    def fill() -> BuildReport:
        total = BuildReport()
        for part in (setup.data.train, setup.data.held_out) if setup.ranks.leads else ():
            if part is not None:
                groups = PromptGroups(part)
                with reference.active() as scorer:
                    done = build_reference(
                        table,
                        scorer,
                        groups,
                        budget=setup.config.micro_batch_tokens,
                        name=groups.name,
                        progress=_now_and_then(),
                        say=lambda sentence: log.info("%s", sentence),
                    )
                total = BuildReport(*(a + b for a, b in zip(astuple(total), astuple(done), strict=True)))
        table.refresh()
        return total

    report = lead_first(setup.ranks, fill)
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

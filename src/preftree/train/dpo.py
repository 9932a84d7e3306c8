"""Recipe of DPO and its family: losses of preferences, with a reference or without."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

from preftree.config.dpo import DpoConfig
from preftree.errors import ConfigError
from preftree.reference.build import BuildReport, build_reference
from preftree.reference.first_step_gate import GateReport, verify_live_start, verify_start, verify_table
from preftree.reference.key import table_key
from preftree.reference.moving import MovingReference
from preftree.reference.protocol import LiveReference, NoReference, Reference, TableReference
from preftree.reference.store import ReferenceTable
from preftree.run_folder.metrics_file import SECONDS_BETWEEN_LINES
from preftree.runtime.paths import cache_root
from preftree.runtime.ranks import open_ranks
from preftree.runtime.reduce import lead_first
from preftree.storage.atomic import write_atomic
from preftree.train.dataset import PromptGroups
from preftree.train.loop import Measure, Outcome, train
from preftree.train.objective import Objective, bind_objective
from preftree.train.open_run import OpenRun, admit, load_run, open_run
from preftree.train.policy import ReferenceModel, find_live_reference, find_reference
from preftree.train.preference_task import PreferenceTask
from preftree.train.run_examples import RunExamples, open_examples, trajectory_of
from preftree.train.step.supervised import SupervisedSteps

log = logging.getLogger("preftree")


def run_dpo(config: DpoConfig, measure: Measure | None = None) -> Outcome:
    """Train as `preftree dpo`, from the options to RUN/model.

    Args:
      config: The options.
      measure: As of `train`.
    Raises:
      UserError: a mistake or a failure outside the program; the message names the remedy.
    """
    config, objective = bind_objective(config)
    with open_run(config) as run:
        data = open_examples(run, objective)
        model = _find_model(run, objective)
        trajectory = trajectory_of(run, data, **objective.identity, **_identity(config, model))
        if finished := admit(run, data, trajectory):
            return Outcome(finished)
        reference, words = _open_reference(run, objective, data, model), "none" if model is None else model.words
        del model  # another model's weights are not needed again, unless it scores beside the policy
        steps = SupervisedSteps(run, data, PreferenceTask(objective, reference))
        return train(run, steps, trajectory, measure, reference=words)


def build_reference_table(config: DpoConfig) -> BuildReport:
    """Fill the reference table that `run_dpo` with these options reads, as `preftree ref build`."""
    config, objective = bind_objective(config)
    if not objective.needs_reference:
        raise ConfigError(f"loss {objective.label} uses no reference: there is no table to build")
    if _is_live(config, objective):
        raise ConfigError("this reference scores beside the policy in every step: there is no table to build")
    with open_ranks() as ranks:
        run = load_run(config, ranks, None)
        data = open_examples(run, objective)
        model = find_reference(run.config, run.policy, run.tokenizer, ranks)
        return _fill_table(run, data, _open_table(run, model), model)


def _is_live(config: DpoConfig, objective: Objective) -> bool:
    """Whether the reference scores beside the policy: for a KL over the vocabulary, or because it moves."""
    return "kl" in objective.inputs or config.reference_schedule is not None


def _find_model(run: OpenRun[DpoConfig], objective: Objective) -> ReferenceModel | None:
    """The reference model; None for losses without a reference."""
    if not objective.needs_reference:
        return None
    find = find_live_reference if _is_live(run.config, objective) else find_reference
    return find(run.config, run.policy, run.tokenizer, run.ranks)


def _identity(config: DpoConfig, model: ReferenceModel | None) -> Mapping[str, object]:
    """The entries of the reference in a trajectory."""
    entries: dict[str, object] = {} if model is None else {"weights of the reference": model.weights}
    if schedule := config.reference_schedule:
        entries |= {"reference.sync_every": schedule.sync_every, "reference.mixup": schedule.mixup}
    return entries


def _open_reference(
    run: OpenRun[DpoConfig], objective: Objective, data: RunExamples, model: ReferenceModel | None
) -> Reference:
    """The reference of the steps: a filled table, or the model; compared with the policy where both must agree."""
    if model is None:
        log.info("loss %s uses no reference: none is computed", objective.label)
        return NoReference()
    groups, budget = data.probes(), run.config.micro_batch_tokens
    if not _is_live(run.config, objective):
        table = _open_table(run, model)
        _fill_table(run, data, table, model)
        groups = [*groups, *data.held_out_probes()]
        if _is_comparable(run, model):
            _log_gate(verify_start(run.scorer, table, groups, budget=budget))
        else:  # the policy of a resumed run still has its first weights here
            with model.active() as scorer:
                gate = verify_table(scorer, table, groups, budget=budget)
            text = "the reference, scored again, equals its table: %.1e nats of %.1e allowed"
            log.info(text, gate.largest_logratio, gate.tolerance)
        return TableReference(table)
    kind = "the policy without its adapter" if model.without_adapter else "a second model in memory"
    log.info("the reference scores beside the policy in every step: %s", kind)
    if _is_comparable(run, model):
        _log_gate(verify_live_start(run.scorer, model.active, groups, budget=budget))
    schedule = run.config.reference_schedule
    if schedule is None:
        return LiveReference(model.active)
    return MovingReference(model.active, model.scorer.model, schedule.sync_every, schedule.mixup)


def _is_comparable(run: OpenRun[DpoConfig], model: ReferenceModel) -> bool:
    """Whether policy and reference are still the same function and must agree; logs the reason where they are not."""
    if run.start is not None:
        log.info("not compared with the reference: this run resumes at step %d", run.start.step)
        return False
    if not model.is_start:
        log.info("not compared with the reference: it is %s, and the run starts elsewhere", model.words)
    return model.is_start


def _log_gate(gate: GateReport) -> None:
    log.info("policy equals reference: %.1e nats of %.1e allowed", gate.largest_logratio, gate.tolerance)


def _open_table(run: OpenRun[DpoConfig], model: ReferenceModel) -> ReferenceTable:
    """The table of a reference; possibly empty."""
    key = table_key(model.weights, model.scorer.numeric_mode)
    table = ReferenceTable.open(Path(run.config.cache or cache_root()), key)
    for sentence in table.set_aside:
        log.warning("%s", sentence)
    named = table.folder / "model.txt"  # for people, and for `preftree cache list`
    if run.ranks.leads and not named.exists():
        with suppress(OSError):
            write_atomic(named, f"{model.words}\n")
    return table


def _fill_table(
    run: OpenRun[DpoConfig], data: RunExamples, table: ReferenceTable, model: ReferenceModel
) -> BuildReport:
    """Score the rows, training and held-out, that the table lacks; rank 0 works, the others read the result."""

    def fill() -> BuildReport:
        total = BuildReport()
        for part in (data.train, data.held_out) if run.ranks.leads else ():
            if part is not None:
                groups = PromptGroups(part)
                with model.active() as scorer:
                    report = build_reference(
                        table,
                        scorer,
                        groups,
                        budget=run.config.micro_batch_tokens,
                        data=part.digest(),
                        name=groups.name,
                        progress=_Progress(),
                        say=lambda sentence: log.info("%s", sentence),
                    )
                total = BuildReport(*(a + b for a, b in zip(astuple(total), astuple(report), strict=True)))
        table.refresh()
        return total

    report = lead_first(run.ranks, fill)
    log.info(
        "reference: %d responses scored in %d forwards (%.1f s), %d known from earlier",
        report.num_scored,
        report.num_forwards,
        report.seconds,
        report.num_cached,
    )
    return report


class _Progress:
    """Log of a build's progress, every 20 seconds."""

    def __init__(self) -> None:
        self._logged = 0.0

    def __call__(self, report: BuildReport) -> None:
        if report.seconds - self._logged >= SECONDS_BETWEEN_LINES:
            self._logged = report.seconds
            log.info("reference: %d responses scored, %.0f s", report.num_scored, report.seconds)

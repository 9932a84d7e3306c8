"""Tables of a report: options, where runs differ, lineage, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftree.config.yaml import flatten
from preftree.report.first_screen import beta_of, data_path, plain
from preftree.report.numbers import show, size
from preftree.run_folder.reader import Run

_SHOWN_DIGEST = 12


@dataclass(frozen=True, slots=True)
class Stop:
    """A stage on the way to the trained model: its name, a description, and its digest."""

    name: str
    what: str
    digest: str = ""
    note: str = ""


def option_rows(run: Run) -> list[tuple[str, str]]:
    """Every option by its dotted name."""
    return [(name, plain(value)) for name, value in flatten(dict(run.config)).items()]


def facts(run: Run) -> list[tuple[str, str]]:
    """Content of summary.json beside the options."""
    figures = {name: value for name, value in run.summary.items() if name != "config"}
    return [(name.replace("_", " ").replace(".", ": "), plain(value)) for name, value in flatten(figures).items()]


def differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Options that are not the same in all runs, with each run's value; where a run writes to is no difference."""
    flat = [flatten(dict(run.config)) for run in runs]
    names = dict.fromkeys(name for options_of_run in flat for name in options_of_run)
    rows = []
    for name in names:
        values = [plain(options_of_run[name]) if name in options_of_run else "" for options_of_run in flat]
        if name not in ("out", "resume") and len(set(values)) > 1:
            rows.append((name, values))
    return rows


def checkpoints(run: Run) -> list[list[str]]:
    """A row for each checkpoint: step, size, digest of its weights, fault."""
    return [[show(saved.step), size(saved.size), saved.digest, saved.fault] for saved in run.checkpoints]


def lineage(run: Run) -> list[Stop]:
    """From the start model and the data over the reference to the trained model, with every digest that is known."""
    config, digests = run.config, _digests(run)
    if not config:
        return []
    stops = [
        Stop("Start", str(config.get("model")), digests.get("weights of the model", "")),
        Stop("Data", data_path(run), digests.get("training data", "")),
    ]
    if config.get("eval_data") is not None:
        held = config["eval_data"]
        what = f"{100 * held:g} % of the prompts" if isinstance(held, float) else str(held)
        stops.append(Stop("Held out", what, digests.get("held-out data", "")))
    if run.recipe.name == "dpo":
        reference = config.get("reference", "start")
        source = reference.get("from", "start") if isinstance(reference, Mapping) else reference
        what = {"start": "the start model", "none": "none: the loss compares with none"}.get(source, str(source))
        if isinstance(reference, Mapping):
            what += f", taking in {reference.get('mixup'):g} of the policy every {reference.get('sync_every')} steps"
        stops.append(Stop("Reference", what, digests.get("weights of the reference", "")))
    beta = beta_of(run)
    loss = run.loss + (f", beta {show(beta)}" if beta is not None else "")
    stops.append(Stop("Training", f"{loss}, {run.steps:,} steps"))
    if run.checkpoints:
        last = run.checkpoints[-1]
        stops.append(Stop("Checkpoint", f"step {last.step:,}", last.digest))
    if run.model_files:
        total = size(sum(run.model_files.values()))
        stops.append(Stop("Model", str(Path("model")), note=f"{len(run.model_files)} files, {total}"))
    return stops


def short(digest: str) -> str:
    """The beginning of a digest, enough to tell two apart."""
    return digest[:_SHOWN_DIGEST]


def _digests(run: Run) -> dict[str, str]:
    """Values that look like content hashes, from the summary and the last checkpoint."""
    fields: dict[str, Any] = {}
    for source in (*(saved.meta for saved in run.checkpoints[-1:]), run.summary):
        fields |= flatten(dict(source))
    return {
        name.rpartition(".")[2].replace("_", " "): value
        for name, value in fields.items()
        if isinstance(value, str) and len(value) >= 16 and all(c in "0123456789abcdef" for c in value)
    }

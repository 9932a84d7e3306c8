"""`preftree sweep dpo beta=.05,.1,.5 [CONFIG.yaml] [key=value ...]`: many runs, and the setting to use."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preftree.cli.shared import REWARD, Samples, announce, print_table, reserve, whole_number
from preftree.config.recipes import RECIPES

if TYPE_CHECKING:
    pass

SWEPT = [name for name, recipe in RECIPES.items() if recipe.trains == "policy"]

log = logging.getLogger("preftree")


def sweep(
    recipe: Annotated[str, typer.Argument(metavar="|".join(SWEPT), help="The recipe.")],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="key=a,b,c [CONFIG.yaml|key=value ...]",
            help="Options with several values are varied, in every combination; `seed=0,1,2` gives bands.",
        ),
    ],
    reward: Annotated[str | None, typer.Option(help=f"Measure the frontier by {REWARD}", show_default=False)] = None,
    prompts: Annotated[int, whole_number(min=2, help="Most prompts to sample for.")] = 256,
    samples: Samples = 4,
) -> None:
    """Run every combination of some options, compare the policies, and recommend a setting with the reason.

    OUT/NAME/ holds each run, OUT/sweep.json and OUT/report.html the comparison. The reference is scored once for all
    runs. The same command resumes a sweep that was stopped.
    """
    announce(f"sweep of {recipe}")
    from rich import box
    from rich.table import Column

    from preftree.cli.frontier import measure_folder
    from preftree.config.command_line import split_words
    from preftree.errors import ConfigError, TrainingError, UserError
    from preftree.evaluate.along_training import Measuring
    from preftree.evaluate.in_memory.after_training import run_recipe
    from preftree.evaluate.recommend import recommend, settings_of
    from preftree.evaluate.sweep import plan_sweep, run_all
    from preftree.judges.rewards import load_rewards
    from preftree.report.end_of_run import conclude
    from preftree.report.page import write_page
    from preftree.report.sweep import settings_table, sweep_page
    from preftree.run_folder.reader import Run, read_run
    from preftree.runtime.logs import quiet_transformers
    from preftree.runtime.signals import Stopped
    from preftree.storage.atomic import write_result

    if reward is not None:
        load_rewards(reward)  # a wrong name fails now, not after hours of training
    if recipe not in SWEPT:
        raise ConfigError(f"a sweep runs {', '.join(SWEPT)}, got {recipe!r}")
    row = RECIPES[recipe]
    files, options = split_words(row.config, words)
    out, variants = plan_sweep(row.config, [*files, *(f"{name}={values}" for name, values in options)])
    reserve(Path(out), "out=")
    quiet_transformers()
    ended: dict[str, tuple[dict[str, str], Run | str]] = {}
    try:
        for variant, error in run_all(variants, run_recipe):
            folder = Path(variant.config.out)
            if error is None and reward is not None:
                try:
                    measure_folder(folder, Measuring(reward, prompts, samples))
                except UserError as fault:
                    log.warning("%s: %s", variant.name, fault)
                    error = str(fault)
            if error is None:
                conclude(folder)
            ended[variant.name] = variant.values, error or read_run(folder)
    except Stopped as stopped:
        raise typer.Exit(128 + stopped.signum) from None

    if all(isinstance(run, str) for _, run in ended.values()):
        raise TrainingError(
            f"no run of this sweep finished, so {out} has no report; the error of each run is printed above"
        )
    settings = settings_of(ended)
    recommendation = recommend(settings)
    results: dict[str, Any] = {
        "recipe": recipe,
        "runs": {
            name: {"values": values}
            | ({"error": run} if isinstance(run, str) else {"points": [p.model_dump() for p in run.measured.frontier]})
            for name, (values, run) in ended.items()
        },
        "settings": [{"name": setting.name, "faults": setting.faults} for setting in settings],
        "recommended": asdict(recommendation),
    }
    again = "fix that and give the same command again; finished runs are not trained again"
    write_result(Path(out) / "sweep.json", json.dumps(results, indent=1, allow_nan=False) + "\n", advice=again)
    write_page(Path(out) / "report.html", sweep_page(settings, recommendation), advice=again)
    heads, rows = settings_table(settings)
    columns = [Column(head, no_wrap=head != heads[0]) for head in heads]
    print_table(columns, rows, box=box.SIMPLE)
    typer.echo(f"recommended: {recommendation.setting or 'nothing'}. {recommendation.reason}")
    typer.echo(f"see {Path(out) / 'report.html'}")

"""`preftree eval frontier`: reward and KL of a policy along its run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preftree.evaluate.along_training import Measuring
    from preftree.run_folder.measured_file import Measured, Point

REWARD = (
    "world:NAME, rm:FOLDER of a reward model, rm:FOLDER:LABEL of a classifier, FILE.py:FUNCTION or MODULE:FUNCTION of "
    "(prompt, response)."
)


def frontier(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Folders of finished runs.")],
    reward: Annotated[str, typer.Option(help=REWARD)],
    prompts: Annotated[int, typer.Option(min=2, help="Maximum number of prompts, from the held-out rows.")] = 256,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each prompt.")] = 4,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens of a response; by default max_response_length, or 256.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of prompts and of the samples.")] = 0,
) -> None:
    """Reward and KL to the reference at a run's snapshots (snapshots=2 keeps them) and at its end.

    Exact in a world whose responses can be enumerated; elsewhere from samples, with 95 % intervals over prompts; the
    options on samples then count. The figures go to RUN/measured.json and into RUN/report.html.
    """
    from rich.console import Console
    from rich.table import Table

    from preftree.evaluate.along_training import Measuring
    from preftree.report.page import write_report
    from preftree.runtime.logs import quiet_transformers

    quiet_transformers()
    how = Measuring(reward, prompts, samples, max_new_tokens, seed)
    for path in runs:
        table = Table("step", "KL, nats", "reward", title=str(path), title_justify="left")
        for point in measure_folder(path, how).frontier:
            table.add_row(str(point.step), interval(point, "kl"), interval(point, "reward"))
        write_report([path], path / "report.html")
        Console(markup=False, highlight=False).print(table)


def measure_folder(path: Path, how: Measuring) -> Measured:
    """Measure a run, and write RUN/measured.json."""
    from preftree.evaluate.along_training import measure_run
    from preftree.run_folder.measured_file import write_measured
    from preftree.run_folder.reader import read_run

    measured = measure_run(read_run(path), how)
    write_measured(path / "measured.json", measured)
    return measured


def interval(point: Point, name: str) -> str:
    """A figure of a point as text, with the ends of its interval where it has one."""
    figures = point.model_extra or {}
    ends = f"  [{figures[f'{name}_low']:.3f}, {figures[f'{name}_high']:.3f}]" if f"{name}_low" in figures else ""
    return f"{getattr(point, name):.3f}{ends}"

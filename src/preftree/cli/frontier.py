"""`preftree eval frontier`: reward and KL of a policy along its run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preftree.cli.shared import REWARD, Samples, announce, print_table, whole_number, with_interval

if TYPE_CHECKING:
    from preftree.evaluate.along_training import Measuring
    from preftree.run_folder.measured_file import Measured, Point


def frontier(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Folders of finished runs.")],
    reward: Annotated[str, typer.Option(help=REWARD)],
    prompts: Annotated[int, whole_number(min=2, help="Maximum number of prompts, from the held-out rows.")] = 256,
    samples: Samples = 4,
    max_new_tokens: Annotated[
        int | None, whole_number(min=1, help="Maximum tokens of a response; by default max_response_length, or 256.")
    ] = None,
    seed: Annotated[int, whole_number(min=0, help="Seed of the choice of prompts and of the samples.")] = 0,
) -> None:
    """Reward and KL to the reference at a run's snapshots (snapshots=2 keeps them) and at its end.

    Exact in a world whose responses can be enumerated; elsewhere from samples, with 95 % intervals over prompts; the
    options on samples then count. The figures go to RUN/measured.json and into RUN/report.html.
    """
    announce(f"reward and KL along {', '.join(map(str, runs))}")
    from preftree.evaluate.along_training import Measuring
    from preftree.report.page import write_report
    from preftree.runtime.logs import quiet_transformers

    quiet_transformers()
    how = Measuring(reward, prompts, samples, max_new_tokens, seed)
    for path in runs:
        points = measure_folder(path, how).frontier
        rows = [[str(point.step), _figure(point, "kl"), _figure(point, "reward")] for point in points]
        write_report([path], path / "report.html")
        print_table(["step", "KL, nats", "reward"], rows, title=str(path))


def measure_folder(path: Path, how: Measuring) -> Measured:
    """Measure a run, and write RUN/measured.json."""
    from preftree.evaluate.along_training import measure_run
    from preftree.run_folder.measured_file import write_measured
    from preftree.run_folder.reader import read_run

    measured = measure_run(read_run(path), how)
    write_measured(path / "measured.json", measured)
    return measured


def _figure(point: Point, name: str) -> str:
    ends = point.model_extra or {}
    return with_interval(getattr(point, name), ends.get(f"{name}_low"), ends.get(f"{name}_high"))

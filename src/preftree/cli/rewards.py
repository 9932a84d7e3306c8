"""`preftree eval rewards`: accuracy of a policy's implicit rewards on pairs, beside a reward model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preftree.stats.intervals import Estimate


def rewards(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished dpo run.")],
    data: Annotated[str, typer.Option(help="Pairs to rank; held-out ones, of the kind the run was trained on.")],
    against: Annotated[str | None, typer.Option(help="A reward model: its folder or its run.")] = None,
    ood: Annotated[str | None, typer.Option(help="More pairs, of another kind: out of distribution.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
) -> None:
    """Accuracy and calibration of beta * (policy - reference log-prob) on pairs, in and out of distribution.

    `difference` is implicit minus explicit. ECE is the expected calibration error of sigmoid(difference of rewards) as
    the chance of a label, nats its mean -log. Intervals are 95 %, by bootstrap over prompts (over pairs where there are
    fewer than 20 prompts). All goes to RUN/rewards.json.
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from preftree.evaluate.implicit_rewards import compare_rewards, rewards_json
    from preftree.run_folder.reader import read_run
    from preftree.runtime.logs import quiet_transformers
    from preftree.storage.atomic import write_atomic

    quiet_transformers()
    opened = read_run(run)
    compared = compare_rewards(opened, [data] if ood is None else [data, ood], against=against, seed=seed)
    table = Table("pairs", "rewards", "accuracy", "ECE", "Brier", "nats")
    for file in compared:
        for name, source in (("implicit", file.implicit), ("explicit", file.explicit)):
            if source is not None:
                fit = (f"{value:.3f}" for value in source.calibration[:3])
                table.add_row(f"{Path(file.data).name} ({file.num_pairs})", name, _between(source.accuracy), *fit)
        if file.difference is not None:
            table.add_row("", "difference", _between(file.difference, "+.3f"))
    write_atomic(run / "rewards.json", json.dumps(rewards_json(opened, compared, against), indent=1) + "\n")
    Console(markup=False, highlight=False).print(table)


def _between(value: Estimate, form: str = ".3f") -> str:
    return f"{value.value:{form}}  [{value.low:{form}}, {value.high:{form}}]"

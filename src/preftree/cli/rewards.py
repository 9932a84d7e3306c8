"""`preftree eval rewards`: accuracy of a policy's implicit rewards on pairs, beside a reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preftree.cli.shared import Step, announce, print_table, with_interval


def rewards(
    run: Annotated[str, typer.Argument(metavar="RUN[@STEP]", help="The folder of a finished dpo run.")],
    data: Annotated[str, typer.Option(help="Pairs to rank; held-out ones, of the kind the run was trained on.")],
    against: Annotated[str | None, typer.Option(help="A reward model: its folder or its run.")] = None,
    ood: Annotated[str | None, typer.Option(help="More pairs, of another kind: out of distribution.")] = None,
    step: Step = None,
) -> None:
    """Accuracy and calibration of beta * (policy - reference log-prob) on pairs, in and out of distribution.

    `difference` is implicit minus explicit. ECE is the expected calibration error of sigmoid(difference of rewards) as
    the chance of a label, nats its mean -log. Intervals are 95 %, by prompt. All goes to
    RUN/rewards.json, or RUN/rewards-STEP.json.
    """
    announce(f"implicit rewards of {run}")
    import json

    from preftree.evaluate.implicit_rewards import compare_rewards, rewards_json
    from preftree.run_folder.reader import read_run
    from preftree.run_folder.steps import split_step
    from preftree.runtime.logs import quiet_transformers
    from preftree.storage.atomic import write_result

    quiet_transformers()
    name, step = split_step(run, step)
    opened = read_run(Path(name))
    compared = compare_rewards(opened, [data] if ood is None else [data, ood], against=against, step=step)
    rows: list[list[str]] = []
    for file in compared:
        for name, source in (("implicit", file.implicit), ("explicit", file.explicit)):
            if source is not None:
                fit = (f"{value:.3f}" for value in source.calibration[:3])
                pairs = f"{Path(file.data).name} ({file.num_pairs})"
                rows.append([pairs, name, with_interval(*source.accuracy), *fit])
        if file.difference is not None:
            rows.append(["", "difference", with_interval(*file.difference, "+.3f")])
    text = json.dumps(rewards_json(opened, compared, against), indent=1) + "\n"
    file = "rewards.json" if step is None else f"rewards-{step}.json"
    write_result(opened.path / file, text, advice="fix that and compare again")
    print_table(["pairs", "rewards", "accuracy", "ECE", "Brier", "nats"], rows)

"""`preftree eval judges`: how good judges are, on answers that are known to be right or wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preftree.cli.shared import JUDGE, print_table, reserve, with_interval

if TYPE_CHECKING:
    from preftree.evaluate.judging.accuracy import JudgeFigures, JudgesCompared
    from preftree.judges.pairwise import Judge
    from preftree.stats.intervals import Estimate

IMPLICIT = "implicit:"


def judges(
    names: Annotated[
        list[str],
        typer.Argument(metavar="JUDGE [JUDGE ...]", help=f"{JUDGE} Or implicit:RUN, a DPO run's implicit rewards."),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Pairs, rankings, exports of `collect`, or rows with lists of `chosen` and `rejected`.  "
            "[default: 420 items that come along]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("judges"),
) -> None:
    """Accuracy and biases of judges on known answers, with 95 % intervals by prompt; the first is compared with each.

    Ties and what cannot be read count half. `right in both` is what a judge gets right whichever side it is shown on.
    The figures go to OUT/judges.json.
    """
    import json

    from preftree.evaluate.judging.accuracy import compare_judges
    from preftree.evaluate.judging.bundled import bundled_items
    from preftree.evaluate.judging.labelled import read_items
    from preftree.runtime.logs import quiet_transformers
    from preftree.storage.atomic import write_result

    quiet_transformers()
    items = bundled_items() if data is None else read_items(data)
    several = [_numbered(names, place) for place in range(len(names))]
    compared = compare_judges([open_judge(name) for name in names], several, items, data or "the bundled set")
    reserve(out)
    text = json.dumps(compared.as_json(), indent=1, ensure_ascii=False) + "\n"
    write_result(out / "judges.json", text, advice="give another --out")
    title = f"{compared.items} items, {compared.pairs} pairs, {compared.data}"
    print_table(["", *several], _rows(compared), title=title, soft_wrap=True)
    if compared.weighed:
        title = "probability of being right, by the votes of judges and people together"
        print_table(["", "right"], [[name, with_interval(*one)] for name, one in compared.weighed.items()], title=title)
    for kept, copy, correlation in compared.copies:
        typer.echo(f"{kept} and {copy} err together (correlation {correlation:.2f}): they are one opinion", err=True)
    typer.echo(f"{out / 'judges.json'} has the figures", err=True)


def open_judge(name: str) -> Judge:
    """A judge by its name, or the implicit rewards of a run as one.

    Raises:
      ConfigError, DataError, ModelError: it cannot be loaded.
    """
    from preftree.evaluate.judging.implicit import ImplicitRewards
    from preftree.judges.pairwise import judge_by_rewards, load_judge
    from preftree.run_folder.reader import read_run

    if not name.startswith(IMPLICIT):
        return load_judge(name)
    return judge_by_rewards(ImplicitRewards(read_run(Path(name.removeprefix(IMPLICIT)))), name)


def _numbered(names: list[str], place: int) -> str:
    name = names[place]
    return f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name


def _rows(compared: JudgesCompared) -> list[list[str]]:
    """A row a figure, a column a judge; figures that no judge has are left out."""
    columns = [_figures(one) for one in compared.judges]
    if compared.people is not None:
        for column in columns:
            column["two people agree"] = with_interval(*compared.people)
    first = compared.judges[0].judge
    for column, one in zip(columns, compared.judges, strict=True):
        if gap := compared.differences.get(one.judge):
            column[f"{first} is better by"] = with_interval(*gap, "+.3f")
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(column.get(name, "") for column in columns)] for name in names]


def _figures(one: JudgeFigures) -> dict[str, str]:
    rows = {
        "accuracy": with_interval(*one.accuracy),
        "right in both orders" if one.orders > 1 else "right, not tied": with_interval(*one.both_right),
    }
    for name, part in one.subsets.items():
        rows[f"  {name} ({part.pairs})"] = with_interval(*part.accuracy)
    for name, part in one.lengths.items():
        rows[f"  {name} ({part.pairs})"] = with_interval(*part.accuracy)
    optional: dict[str, Estimate | None] = {
        f"best of several ({one.best_of_items})": one.best_of,
        "left preferred": one.left_rate,
        "accuracy without biases": one.unbiased.rate,
        "log-odds of a much longer answer": one.unbiased.length,
        "log-odds of the left answer": one.unbiased.left,
        "agrees with a person": one.with_people,
    }
    plain = {
        "score of ties": one.ties_score,
        "equal answers called ties": one.ties_called,
        "calibration error": None if one.calibration is None else one.calibration.error,
    }
    rows |= {name: with_interval(*value) for name, value in optional.items() if value is not None}
    rows |= {name: f"{value:.3f}" for name, value in plain.items() if value is not None}
    if one.unknown:
        rows["verdicts that cannot be read"] = str(one.unknown)
    return rows

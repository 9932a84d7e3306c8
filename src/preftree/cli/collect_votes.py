"""`preftree collect stats | export`: what people's votes say, and the votes as training data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from preftree.cli.shared import print_table, with_interval

if TYPE_CHECKING:
    from preftree.collect.statistics import PersonFigures, ProjectFigures
    from preftree.crowd.agreement import Agreement

_MOST_UNDECIDED = 5

ReadProject = Annotated[Path, typer.Argument(metavar="P.db", help="The project file.")]


def stats(project: ReadProject) -> None:
    """Show progress, agreement by slice, and annotators with skill, side and flags; also while it is being served."""
    from preftree.collect.schema import connect
    from preftree.collect.statistics import figures_of_project

    connection = connect(project, write=False)
    try:
        connection.execute("BEGIN")  # one state of the project throughout, also while people vote
        figures = figures_of_project(connection)
    finally:
        connection.close()
    for line in _progress(figures):
        typer.echo(line)
    rows = [_agreement_row("all pairs", figures.alpha)]
    if figures.alpha_random is not None:
        rows.append(_agreement_row("picked at random", figures.alpha_random))
    rows += [_agreement_row(f"slice {name}", alpha) for name, alpha in figures.slices.items()]
    typer.echo()
    print_table(("agreement", "alpha, 95 %", "pairs", "votes"), rows)
    same = figures.consistency
    words = "undefined: no repeats" if same is None else with_interval(*same)
    typer.echo(f"the same answer to a repeat: {words}")
    typer.echo()
    heads = ("who", "votes", "right, est.", "with others", "checks", "side bias", "left", "ties", "s", "")
    print_table(heads, [_person_row(person) for person in figures.people])
    flagged = sum(bool(person.flags) for person in figures.people)
    typer.echo(f"{flagged} of {len(figures.people)} annotators have a flag; a flag asks for a look and convicts nobody")
    for number, win_prob in figures.undecided[:_MOST_UNDECIDED]:
        typer.echo(f"undecided: pair {number}, first response better with probability {win_prob:.2f}")


def export(
    project: ReadProject,
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The file to write.")],
    form: Annotated[
        Literal["own", "trl", "kto", "arena", "argilla", "label-studio", "hh"],
        typer.Option("--format", help="Own rows with every vote, or rows of another tool."),
    ] = "own",
) -> None:
    """Write the votes as training data; OUT.jsonl.votes beside it names them for the card of what is trained on it."""
    from preftree.collect.export import export_project
    from preftree.collect.schema import connect

    connection = connect(project, write=False)
    try:
        tally = export_project(connection, out, form)
    finally:
        connection.close()
    typer.echo(f"{out}: {tally.rows} rows as {form}")
    for reason, count in tally.left_out.items():
        typer.echo(f"left out: {count} {reason}; the first: {tally.first[reason]}")


def _progress(figures: ProjectFigures) -> Iterator[str]:
    pairs, begun, done = figures.pairs
    yield f"{pairs} pairs, {begun} with votes, {done} with all; {figures.golds} more with a known answer"
    yield (
        f"{figures.votes} votes and {figures.repeats} repeats; {figures.needed} votes are needed in all; "
        f"{figures.skips} skips, {figures.flags} flags, {figures.undone} actions taken back"
    )


def _agreement_row(name: str, agreement: Agreement) -> tuple[str, str, str, str]:
    alpha = (
        agreement.undefined
        if agreement.alpha is None
        else with_interval(agreement.alpha, agreement.low, agreement.high)
    )
    if agreement.alpha is not None and agreement.low is None:
        alpha += "  too few pairs for an interval"
    return name, alpha, str(agreement.units), str(agreement.values)


def _person_row(person: PersonFigures) -> tuple[str, ...]:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    return (
        f"{person.name} ({person.pseudonym})",
        str(person.votes),
        f"{person.skill:.2f} [{person.skill_low:.2f}, {person.skill_high:.2f}]" if person.votes else "-",
        share(person.with_others),
        f"{person.right} of {person.checks}",
        f"{person.side_bias:+.1f} ± {person.side_error:.1f}" if person.votes else "-",
        share(person.left) + (f" (p {person.left_p:.3g})" if person.left is not None else ""),
        share(person.ties),
        "-" if person.seconds is None else f"{person.seconds:.1f}",
        ", ".join(person.flags),
    )

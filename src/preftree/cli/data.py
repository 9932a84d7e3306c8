"""`preftree data inspect FILE` and `preftree data convert FILE OUT.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True)


Source = Annotated[str, typer.Argument(metavar="FILE", help="A data file, a folder of them, or a hub id.")]
Format = Annotated[str | None, typer.Option("--format", help="Read the rows as this format.", show_default="detected")]
Kind = Annotated[
    Literal["preference", "demonstration", "ranking", "label"] | None,
    typer.Option("--kind", help="Turn the rows into this: a ranking into pairs, say.", show_default=False),
]
Chosen = Annotated[
    Literal["chosen"] | None,
    typer.Option("--side", help="With --kind demonstration: imitate this side.", show_default=False),
]


@app.callback()
def _root() -> None:
    """Look at data files and convert them."""


@app.command("inspect")
def inspect(
    file: Source,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    format_name: Format = None,
    kind: Kind = None,
    side: Chosen = None,
) -> None:
    """Show the detected format, counts, faults by file and line, and one rendered record."""
    import json

    from preftree.data.inspect import inspect_file

    found = inspect_file(file, format_name=format_name, kind=kind, chosen_side=side is not None)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
        return
    from preftree.cli.data_view import show

    show(found)


@app.command("convert")
def convert(
    file: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The file to write.")],
    format_name: Format = None,
    kind: Kind = None,
    side: Chosen = None,
    max_rejected: Annotated[
        float, typer.Option(min=0, max=1, help="Share of faulty rows above which nothing is written.")
    ] = 0.05,
) -> None:
    """Write the accepted rows in the project's own JSONL."""
    from preftree.data.convert import convert_file

    tally, written = convert_file(
        file,
        out,
        format_name=format_name,
        kind=kind,
        chosen_side=side is not None,
        max_rejected_share=max_rejected,
    )
    for row in tally.rejected:
        typer.echo(f"rejected: {row}", err=True)
    if tally.num_rejected > len(tally.rejected):
        typer.echo(f"and {tally.num_rejected - len(tally.rejected)} more", err=True)
    typer.echo(f"{out}: {written} rows written from {tally.rows}, {tally.num_rejected} rejected", err=True)

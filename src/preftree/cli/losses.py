"""`preftree losses [NAME]`: every loss with its options and source, or one loss in full."""

from __future__ import annotations

from typing import Annotated

import typer


def losses(
    name: Annotated[str | None, typer.Argument(help="A loss to show in full.", show_default=False)] = None,
) -> None:
    """List every loss with its options and source, or show one in full."""
    import inspect

    from rich.console import Console
    from rich.table import Table

    from preftree.errors import ConfigError
    from preftree.losses.table import LOSSES, find, inputs_of, options_of

    if name is not None:
        try:
            spec = find(name)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        typer.echo(f"{name}\n\n{inspect.getdoc(spec.function)}")
        return

    table = Table("loss", "options", "inputs")
    table.add_column("source", overflow="fold")
    for key, spec in LOSSES.items():
        options = "\n".join(f"{option} {value}" for option, value in options_of(spec).items())
        table.add_row(key, options or "none", ", ".join(inputs_of(spec)), spec.source)
    Console(markup=False).print(table)

"""`preftree losses [NAME]`: every loss with its options and source, or the full text of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WIDTH = 100
INDENT = 20
START, END = "<!-- from the docstrings: make docs-losses -->", "<!-- end -->"


def losses(
    name: Annotated[str | None, typer.Argument(help="A loss to show in full.", show_default=False)] = None,
    into: Annotated[Path | None, typer.Option(help="Write what docstrings say into this page.", hidden=True)] = None,
) -> None:
    """List every loss with its options and source, or show one in full."""
    if into is not None:
        _write_page(into)
    elif name is not None:
        typer.echo(_in_full(name))
    else:
        typer.echo("\n\n".join(_entries()))


def _entries() -> list[str]:
    import shutil
    import textwrap

    from preftree.losses.registry import LOSSES
    from preftree.losses.words.describe import describe

    width = min(WIDTH, shutil.get_terminal_size().columns)
    entries = []
    for name, spec in LOSSES.items():
        words = describe(spec)
        lines = [words.summary]
        if words.needs:
            lines.append("needs " + ", ".join(words.needs))
        lines += [*words.options, words.source]
        wrapped = [
            textwrap.fill(
                line, width, initial_indent=" " * INDENT, subsequent_indent=" " * (INDENT + 2), break_on_hyphens=False
            )
            for line in lines
        ]
        entries.append("\n".join(wrapped).replace(" " * INDENT, name.ljust(INDENT), 1))
    return entries


def _in_full(name: str) -> str:
    import torch

    from preftree.losses.curve import loss_curve
    from preftree.losses.words.describe import full_text
    from preftree.report.braille import draw_curve
    from preftree.train.objective import bind_loss

    loss = bind_loss(name)
    text = f"{loss.name}\n\n{full_text(loss.spec)}"
    if loss.spec.kind != "pair":
        return text
    reach = 6 / float(loss.options.get("beta", 1.0))
    deltas = torch.linspace(-reach, reach, 121, dtype=torch.float64)
    values, slopes = loss_curve(loss, deltas)
    options = ", ".join(f"{option} {value}" for option, value in loss.options.items())
    plots = [
        draw_curve(curve.tolist(), title=f"{title} against delta; {options}", ends=(-reach, reach))
        for title, curve in (("loss", values), ("d loss / d delta", slopes))
    ]
    return "\n\n".join([text, *plots])


def _write_page(page: Path) -> None:
    from preftree.errors import DataError
    from preftree.losses.registry import LOSSES
    from preftree.losses.words.page import markdown_page

    text = page.read_text("utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise DataError(
            f"{page}: wanted the lines {START!r} and {END!r} around what the docstrings say, got none; put them in"
        )
    page.write_text(f"{before}{START}\n\n{markdown_page(LOSSES)}\n\n{END}{after}", "utf-8")

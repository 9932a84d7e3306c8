"""How an inspected data file looks on a terminal."""

from __future__ import annotations

from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from preftree.data.tools.inspect import Inspection
from preftree.data.tools.lengths import parts, spread
from preftree.records import Label, Preference, Provenance, Record
from preftree.records import Text as Said

SHOWN_PLACES = 10
SHOWN_CHARACTERS = 1200
USUAL_SHARE = 0.05  # above it a run stops, unless it is told otherwise


def show(found: Inspection) -> None:
    """Print the summary on stdout."""
    console = Console(highlight=False)
    tally, form = found.tally, found.format
    console.print(Text(safe(found.source.path), "bold", overflow="fold"))
    console.print(f"{form.name}: {form.title}")
    counts = Text.assemble(f"{tally.rows:,} rows, ", (f"{tally.accepted:,} accepted", "green"))
    if tally.num_rejected:
        counts.append(f", {tally.num_rejected:,} rejected ({tally.num_rejected / tally.rows:.1%})", "red")
    if found.num_records != tally.accepted:
        counts.append(f"; {found.num_records:,} records")
    console.print(counts)
    if tally.num_rejected:
        console.print(Padding(_faults(found), (1, 0, 0, 0)))
    if tally.rows and tally.num_rejected > USUAL_SHARE * tally.rows:
        share = f"{USUAL_SHARE:.0%}"
        console.print(Text(f"a run would stop: more than {share} of the rows are rejected (data.max_rejected)", "red"))
    if found.lengths:
        console.print(Padding(_lengths(found), (1, 0)))
    if found.first is not None:
        console.print(_record(*found.first))


def safe(text: str) -> str:
    """Text without control characters that could move the cursor or change the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def _faults(found: Inspection) -> Group:
    tally = found.tally
    table = Table("fault", "rows", "first places", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for fault, count in tally.faults.most_common():
        places = [row for row in tally.rejected if row.fault == fault][:SHOWN_PLACES]
        lines = ", ".join(f"{row.line}" for row in places) if len(found.source.files) < 2 else ""
        lines = lines or ", ".join(f"{row.file}:{row.line}" for row in places)
        table.add_row(Text(fault, "red"), f"{count:,}", Text(safe(lines) + (", ..." if count > len(places) else "")))
    first = {row.fault: row for row in reversed(tally.rejected)}
    told = [
        Text(safe(str(first[fault])), "dim", overflow="fold")
        for fault, _ in tally.faults.most_common()
        if fault in first
    ]
    return Group(table, Text(), *told)


def _lengths(found: Inspection) -> Table:
    table = Table("characters", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("min", "median", "mean", "max"):
        table.add_column(name, justify="right")
    for part, counts in found.lengths.items():
        table.add_row(part, *(f"{value:,.0f}" for value in spread(counts).values()))
    return table


def _record(where: Provenance, record: Record) -> Panel:
    styles = {"chosen": "green", "rejected": "red"}
    body: list[Text] = []
    for name, said in parts(record):
        body += [Text(name, f"bold {styles.get(name, 'cyan')}"), Text(_shorten(safe(_script(said)))), Text()]
    extras = [f"weight {record.weight:g}"] if record.weight != 1 else []
    if isinstance(record, Preference):
        extras += [] if record.margin is None else [f"margin {record.margin:g}"]
        extras += ["tie"] if record.tie else []
    if isinstance(record, Label):
        extras += ["desirable" if record.desirable else "undesirable"]
    place = Text(", ".join([safe(str(where)), *extras]), "dim", overflow="fold")
    return Panel(Group(place, Text(), *body[:-1]), title="first record", title_align="left", border_style="dim")


def _script(said: Said) -> str:
    return said if isinstance(said, str) else "\n".join(f"[{turn.role}] {turn.content}" for turn in said)


def _shorten(text: str) -> str:
    """The beginning and the end: what matters of a prompt is where it stops."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters ...\n{text[-half:]}"

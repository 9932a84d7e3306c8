"""Terminal view of an inspected data file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from preftree.data.rows.texts import named_texts, spread
from preftree.data.tools.inspect import Inspection
from preftree.records import Label, Preference, Provenance, Record
from preftree.records import Text as RecordText

if TYPE_CHECKING:  # they import torch
    from preftree.data.tokens.template import ResponsePiece
    from preftree.data.tools.token_view import ShownRow, TokenView

SHOWN_PLACES = 10
SHOWN_CHARACTERS = 1200
USUAL_SHARE = 0.05  # above it a run stops, unless data.max_rejected is higher


def print_inspection(inspection: Inspection) -> None:
    """Print the summary on stdout."""
    console = Console(highlight=False)
    tally, form = inspection.tally, inspection.format
    console.print(Text(safe(inspection.source.path), "bold", overflow="fold"))
    console.print(f"{form.name}: {form.title}")
    counts = Text.assemble(f"{tally.rows:,} rows, ", (f"{tally.accepted:,} accepted", "green"))
    if tally.num_rejected:
        counts.append(f", {tally.num_rejected:,} rejected ({tally.num_rejected / tally.rows:.1%})", "red")
    if inspection.num_records != tally.accepted:
        counts.append(f"; {inspection.num_records:,} records")
    console.print(counts)
    if tally.repeated:
        first = ", ".join(tally.places["repeated"])
        console.print(
            Text(f"left out: {tally.repeated:,} repeats of earlier rows; first {safe(first)}", overflow="fold")
        )
    if tally.unread:
        fields = ", ".join(f"{field} ({rows:,})" for field, rows in tally.unread.most_common())
        console.print(Text(f"not read: {safe(fields)}", "yellow", overflow="fold"))
    for line in label_lines(inspection):
        console.print(Text(safe(line), overflow="fold"))
    if tally.num_rejected:
        console.print(Padding(_faults(inspection), (1, 0, 0, 0)))
    if tally.rows and tally.num_rejected > USUAL_SHARE * tally.rows:
        share = f"{USUAL_SHARE:.0%}"
        console.print(Text(f"a run would stop: more than {share} of the rows are rejected (data.max_rejected)", "red"))
        if inspection.format.columns == "" and 2 * tally.num_rejected > tally.rows:
            console.print(Text("if the fields mean something else, say what each is with --columns", "yellow"))
    if inspection.lengths:
        console.print(Padding(_lengths(inspection), (1, 0)))
    if inspection.view is not None:
        console.print(Padding(_tokens(inspection.view), (0, 0, 1, 0)))
        for row in inspection.view.rendered:
            console.print(_rendered(row))
    elif inspection.first is not None:
        console.print(_record(*inspection.first))


def label_lines(inspection: Inspection) -> list[str]:
    """What the labels say about length, and the rows that nearly repeat others, in words."""
    lines, bias, near = [], inspection.length_bias.as_json(), inspection.near_repeats
    if bias is not None:
        share, preferred, other = bias["preferred_longer"], bias["mean_preferred"], bias["mean_other"]
        lines.append(
            f"length: the preferred response is the longer one in {share:.1%} of comparisons; on average it has "
            f"{preferred:,.0f} characters, the other one {other:,.0f}"
        )
    if near is not None:
        first = "; first " + ", ".join(f"{where} (of {earlier})" for where, earlier in near.first[:3])
        lines.append(f"near repeats: {near.count:,} rows are nearly an earlier one{first if near.count else ''}")
    return lines


def safe(text: str) -> str:
    """Text without control characters that could move the cursor or change the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def _faults(inspection: Inspection) -> Group:
    tally = inspection.tally
    table = Table("fault", "rows", "first places", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for fault, count in tally.faults.most_common():
        places = [row for row in tally.rejected if row.fault == fault][:SHOWN_PLACES]
        lines = ", ".join(f"{row.line}" for row in places) if len(inspection.source.files) < 2 else ""
        lines = lines or ", ".join(f"{row.file}:{row.line}" for row in places)
        table.add_row(Text(fault, "red"), f"{count:,}", Text(safe(lines) + (", ..." if count > len(places) else "")))
    first = {row.fault: row for row in reversed(tally.rejected)}
    sentences = [
        Text(safe(str(first[fault])), "dim", overflow="fold")
        for fault, _ in tally.faults.most_common()
        if fault in first
    ]
    return Group(table, Text(), *sentences)


def limit_lines(view: TokenView) -> list[str]:
    """What each limit would do, in words."""
    rows = view.lengths["prompt"].total() if view.lengths else 0
    return [
        f"max_length {limit:,}: {view.over[limit]:,} of {rows:,} rows are longer (truncation=drop leaves them out, the "
        f"others cut them); in {view.prompt_over[limit]:,} the prompt alone leaves no room"
        for limit in view.max_lengths
    ]


def marks_line(view: TokenView) -> str:
    """The special tokens that the encoded rows hold, in words."""
    counts = ", ".join(f"{token} {count:,}" for token, count in view.marks.most_common())
    return f"special tokens: {counts or 'none'}"


def sharing_lines(view: TokenView) -> list[str]:
    """How much the trees of a run save, in words."""
    if view.sharing is None:
        return []
    computed, alone = view.sharing
    return [
        f"trees compute {computed / alone:.2f} of the tokens of every response with its own prompt "
        f"(the first rows, shuffled, in steps of {view.step_rows})"
    ]


def _tokens(view: TokenView) -> Group:
    lines = [Text(line, overflow="fold") for line in (*limit_lines(view), *sharing_lines(view))]
    return Group(_spreads("tokens", view.lengths), Text(), *lines, Text(safe(marks_line(view)), overflow="fold"))


def _rendered(row: ShownRow) -> Panel:
    """A row as the model sees it; what is scored is green and in reverse."""
    body = [Text("prompt", "bold cyan"), _marked(row.prompt)]
    for name, pieces in row.responses:
        body += [Text(), Text(name, "bold cyan"), _marked(pieces)]
    place = Text(safe(str(row.where)), "dim", overflow="fold")
    return Panel(Group(place, Text(), *body), title="as the model sees it", title_align="left", border_style="dim")


def _marked(pieces: Sequence[ResponsePiece]) -> Text:
    shown = [(_shorten(safe(piece.text)), "reverse green" if piece.scored else "") for piece in pieces]
    return Text.assemble(*shown)


def _lengths(inspection: Inspection) -> Table:
    return _spreads("characters", inspection.lengths)


def _spreads(unit: str, lengths: Mapping[str, Counter[int]]) -> Table:
    table = Table(unit, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("min", "median", "mean", "max"):
        table.add_column(name, justify="right")
    for part, counts in lengths.items():
        table.add_row(part, *(f"{value:,.0f}" for value in spread(counts).values()))
    return table


def _record(where: Provenance, record: Record) -> Panel:
    styles = {"chosen": "green", "rejected": "red"}
    body: list[Text] = []
    for name, text in named_texts(record):
        if not text:  # prompts alone have no response
            continue
        body += [Text(name, f"bold {styles.get(name, 'cyan')}"), Text(_shorten(safe(_script(text)))), Text()]
    extras = [f"weight {record.weight:g}"] if record.weight != 1 else []
    if isinstance(record, Preference):
        extras += [f"margin {value:g}" for value in record.figures.get("margin", ())]
        extras += ["tie"] if record.tie else []
    if isinstance(record, Label):
        extras += ["desirable" if record.desirable else "undesirable"]
    place = Text(", ".join([safe(str(where)), *extras]), "dim", overflow="fold")
    return Panel(Group(place, Text(), *body[:-1]), title="first record", title_align="left", border_style="dim")


def _script(text: RecordText) -> str:
    return text if isinstance(text, str) else "\n".join(f"[{turn.role}] {turn.content}" for turn in text)


def _shorten(text: str) -> str:
    """The beginning and the end of a text, since the end of a prompt matters most."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters ...\n{text[-half:]}"

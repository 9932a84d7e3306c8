"""Conversion of all known formats into Preftree's JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from preftree.data.formats.hh import HUMAN
from preftree.data.rows.columns import Columns
from preftree.data.rows.conversion import as_kind, check_kind, to_row
from preftree.data.rows.faults import Tally, check_share
from preftree.data.rows.fields import Row
from preftree.data.sources.reader import check_out, find_format, find_source, read_records
from preftree.records import Kind, Text
from preftree.storage.atomic import disk_faults, staged_file

_LINE_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


def convert_file(
    path: str,
    out: Path,
    *,
    format_name: str | None = None,
    columns: Columns | None = None,
    kind: Kind | None = None,
    chosen_side: bool = False,
    max_turns: int | None = None,
    num_rows: int | None = None,
    seed: int = 0,
    max_rejected_share: float = 0.05,
) -> tuple[Tally, int]:
    """Write the accepted records of a source as JSON lines; `out` appears when it is complete.

    Args:
      path: The source.
      out: A .jsonl file.
      format_name: Format of the rows; None detects it.
      columns: A mapping of columns, which takes the place of a format.
      kind: Kind of the written records; None keeps that of the source.
      chosen_side: Whether preferences become demonstrations of their chosen responses.
      max_turns: Most human turns of a prompt; None is no limit.
      num_rows: Most rows to write, chosen by seed, in their order; None writes all.
      seed: Seed of that choice.
      max_rejected_share: Largest share of faulty rows; above it nothing is written.
    Returns:
      The tally of the rows read, and the number of rows written.
    Raises:
      DataError: the source cannot be read or holds too many faults, or `out` would overwrite it.
    """
    source = find_source(path)
    check_out(source, out)
    form = find_format(source, format_name, columns)
    if kind is not None:
        check_kind(path, form, kind, chosen_side=chosen_side)
    tally, written = Tally(), 0
    with disk_faults("make room, or give another OUT"), staged_file(out) as partial:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            for where, record in read_records(source, form, tally):
                if max_turns is not None and human_turns(record.prompt) > max_turns:
                    tally.note("longer_dialogue", where)
                    continue
                for item in [record] if kind is None else as_kind(record, kind, chosen_side=chosen_side):
                    file.write(json_line(to_row(item)))
                    written += 1
            check_share(path, tally.rows, tally.faults, tally.rejected, max_rejected_share)
        if num_rows is not None and num_rows < written:
            lines = partial.read_text(encoding="utf-8").removesuffix("\n").split("\n")
            lines = some_of(lines, num_rows, seed)
            written = len(lines)
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return tally, written


def json_line(row: Row) -> str:
    """A row as a line of JSON; characters that some programs take for the end of a line are escaped."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).translate(_LINE_BREAKS) + "\n"


def some_of(lines: list[str], number: int, seed: int) -> list[str]:
    """`number` of the lines, chosen by seed, in their order; all if there are no more."""
    if number >= len(lines):
        return lines
    chosen = np.sort(np.random.default_rng(seed).choice(len(lines), number, replace=False))
    return [lines[index] for index in chosen.tolist()]


def human_turns(prompt: Text) -> int:
    """Human turns of a prompt: those of a conversation, or of an HH transcript; else one."""
    if isinstance(prompt, str):
        return max(1, prompt.count(HUMAN))
    return sum(turn.role == "user" for turn in prompt)

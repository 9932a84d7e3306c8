"""Page of an inspected data file: one HTML file that loads nothing."""

from __future__ import annotations

from pathlib import Path

from preftree.cli.data_view import label_lines, limit_lines, marks_line, safe, sharing_lines
from preftree.data.rows.texts import spread
from preftree.data.tools.inspect import Inspection
from preftree.report.page import environment, write_page


def write_inspection(out: Path, inspection: Inspection) -> None:
    """Write the page; an earlier page of this kind is replaced.

    Raises:
      DataError: the file cannot be written, or holds something else.
    """
    view, tally = inspection.view, inspection.tally
    assert view is not None, "the command asks for a model"
    first = {row.fault: str(row) for row in reversed(tally.rejected)}
    spreads = [("characters", inspection.lengths), ("tokens", view.lengths)]
    path = safe(inspection.source.path)
    page = (
        environment()
        .get_template("inspection.html")
        .render(
            title=path,
            path=path,
            script_digest=None,
            shown=safe,
            form=inspection.format,
            counts=f"{tally.rows:,} rows, {tally.accepted:,} accepted, {tally.num_rejected:,} rejected",
            faults=[(fault, count, safe(first.get(fault, ""))) for fault, count in tally.faults.most_common()],
            lengths=[
                (f"{part}, {unit}", [f"{value:,.0f}" for value in spread(counts).values()])
                for unit, lengths in spreads
                for part, counts in lengths.items()
            ],
            lines=[
                *map(safe, label_lines(inspection)),
                *limit_lines(view),
                *sharing_lines(view),
                safe(marks_line(view)),
            ],
            rendered=[
                {"where": safe(str(row.where)), "parts": [("prompt", row.prompt), *row.responses]}
                for row in view.rendered
            ],
        )
    )
    write_page(out, page, advice="name another file")

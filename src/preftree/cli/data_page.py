"""Page of an inspected data file: one HTML file that loads nothing."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined

import preftree.report
from preftree import __version__
from preftree.cli.data_view import label_lines, limit_lines, marks_line, safe
from preftree.data.rows.texts import spread
from preftree.data.tools.inspect import Inspection
from preftree.report.page import write_page

_STYLE = """
pre { white-space: pre-wrap; background: var(--card); border-radius: .5rem; padding: 1rem 1.2rem; margin-top: .5rem;
  font: .86rem/1.5 ui-monospace, Menlo, Consolas, monospace }
mark { background: color-mix(in srgb, var(--good) 28%, transparent); color: inherit }
table { border-collapse: collapse; margin-top: 1rem } td, th { padding: .25rem 1.2rem .25rem 0; text-align: right }
td:first-child, th:first-child { text-align: left } th { color: var(--soft); font-weight: 500 }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="Preftree {{ version }}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{{ path }} · Preftree</title>
<style>{{ style | safe }}</style>
</head>
<body>
<header>
<p class="kind">{{ form.name }}: {{ form.title }}</p>
<h1>{{ path }}</h1>
<p class="lede">{{ counts }}</p>
</header>
<main>
{% if faults %}<section><h2>Rejected rows</h2>
<ul>{% for fault, count, first in faults %}<li>{{ fault }} {{ count }}: {{ first }}</li>{% endfor %}</ul>
</section>{% endif %}
<section><h2>Lengths</h2>
<table><tr><th>part</th><th>min</th><th>median</th><th>mean</th><th>max</th></tr>
{% for name, values in lengths %}<tr><td>{{ name }}</td>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% for line in lines %}<p class="quiet">{{ line }}</p>{% endfor %}</section>
<section><h2>Rows as the model sees them</h2>
<p class="quiet">What is scored is <mark>marked</mark>.</p>
{% for row in rendered %}<h3>{{ row.where }}</h3>
{% for name, pieces in row.parts %}<p class="quiet">{{ name }}</p>
<pre>{% for piece in pieces -%}
{% if piece.scored %}<mark>{{ piece.text | shown }}</mark>{% else %}{{ piece.text | shown }}{% endif %}
{%- endfor %}</pre>
{% endfor %}{% endfor %}</section>
</main>
</body>
</html>
"""


def write_inspection(out: Path, inspection: Inspection) -> None:
    """Write the page; an earlier page of this kind is replaced.

    Raises:
      DataError: the file cannot be written, or holds something else.
    """
    view, tally = inspection.view, inspection.tally
    assert view is not None, "the command asks for a model"
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["shown"] = safe
    templates = Path(preftree.report.__file__).parent / "templates"
    first = {row.fault: str(row) for row in reversed(tally.rejected)}
    spreads = [("characters", inspection.lengths), ("tokens", view.lengths)]
    page = environment.from_string(_PAGE).render(
        version=__version__,
        style=(templates / "page.css").read_text(encoding="utf-8") + _STYLE,
        path=safe(inspection.source.path),
        form=inspection.format,
        counts=f"{tally.rows:,} rows, {tally.accepted:,} accepted, {tally.num_rejected:,} rejected",
        faults=[(fault, count, safe(first.get(fault, ""))) for fault, count in tally.faults.most_common()],
        lengths=[
            (f"{part}, {unit}", [f"{value:,.0f}" for value in spread(counts).values()])
            for unit, lengths in spreads
            for part, counts in lengths.items()
        ],
        lines=[*map(safe, label_lines(inspection)), *limit_lines(view), safe(marks_line(view))],
        rendered=[
            {"where": safe(str(row.where)), "parts": [("prompt", row.prompt), *row.responses]} for row in view.rendered
        ],
    )
    write_page(out, page, advice="name another file")

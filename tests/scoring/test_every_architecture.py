"""Every causal architecture of the installed transformers that a generic shrink can build is exact, or refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
import transformers

from support.every_architecture import examine, names, table

PARTS = 8


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_trees_and_rows_are_exact_or_refused(part: int) -> None:
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [examine(name) for name in names()[part::PARTS]]
    wrong = [row for row in rows if row.layout == "traceback" or row.layout.startswith("inexact")]
    assert wrong == []
    # A model with windows computes with them, on trees or on rows; a refusal would be no answer for so many.
    assert [row.name for row in rows if row.slides and row.layout == "refused"] == []
    if _is_current(_page()):
        assert {row.name for row in rows if row.layout == "not built"} <= _not_built(_page())


def test_the_page_names_every_architecture() -> None:
    """The table of the page is of the transformers that it names; `make`s of other versions may know more."""
    page = _page()
    if not _is_current(page):
        pytest.skip("the page is of another version of transformers")
    assert [name for name in names() if f"| {name} |" not in page] == []
    assert "inexact" not in page.partition("| architecture |")[2]
    assert "traceback" not in page.partition("| architecture |")[2]
    assert 0 < len(_not_built(page)) <= len(names()) / 5


def _page() -> str:
    return (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")


def _is_current(page: str) -> bool:
    return f"transformers {transformers.__version__}" in page


def _not_built(page: str) -> set[str]:
    """Names of the architectures that the page says a generic shrink cannot make."""
    cells = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| ")]
    return {row[1] for row in cells if len(row) > 5 and row[2] == "not built"}


def test_the_table_has_a_line_for_each_row() -> None:
    rows = [json.loads(json.dumps(asdict(examine(name)))) for name in ("llama", "bloom")]
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| llama | trees | ") and lines[3].startswith("| bloom | rows | ")

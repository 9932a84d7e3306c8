"""docs/data.md names every format, fault and action, and its template works."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

from preftree.data.formats import FORMATS
from preftree.data.rows.faults import ACTIONS, FAULTS
from preftree.data.rows.parts import TARGETS
from support.tokenizers import plain_tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


@pytest.mark.parametrize("name", [*FORMATS, *FAULTS, *ACTIONS])
def test_every_name_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_template_on_the_page_writes_transcripts() -> None:
    lines = PAGE[PAGE.index("    {%- for message") : PAGE.index("### Budgets")]
    tokenizer = plain_tokenizer()
    tokenizer.chat_template = textwrap.dedent(lines).strip()
    turns = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    render = tokenizer.apply_chat_template
    assert render(turns, tokenize=False) == "\n\nHuman: a?\n\nAssistant: b<|endoftext|>"
    assert render(turns[:1], tokenize=False, add_generation_prompt=True) == "\n\nHuman: a?\n\nAssistant:"


ROWS = re.findall(r"^\| `(\w+)` \| `(\{.*?\})`", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, row in ROWS if "..." not in row])
def test_the_rows_on_the_page_are_of_their_formats(name: str, row: str) -> None:
    parsed = json.loads(row)
    assert [form.name for form in FORMATS.values() if form.detect(parsed)] == [name]
    FORMATS[name].read(parsed)


def test_every_line_of_the_table_of_layouts_is_answered() -> None:
    """Each names a format, or the beginning of a sentence that the product prints."""
    lines = re.findall(r"^\| (.+?) \| (.+) \|$", PAGE[PAGE.index("| layout |") : PAGE.index("## Faults")], re.MULTILINE)
    assert len(lines) > 25
    for layout, answer in lines[2:]:
        assert re.search(r"`\w+`|refused|a fault|by their names", answer), layout


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_of_a_mapping_is_on_the_page(target: str) -> None:
    assert f"`{target}`" in PAGE or f"{target}=" in PAGE

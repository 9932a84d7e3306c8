"""docs/data.md names every format, fault and action, and its template works."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from preftree.data.formats import FORMATS
from preftree.data.rows.faults import ACTIONS, FAULTS
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

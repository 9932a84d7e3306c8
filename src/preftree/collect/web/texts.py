"""Texts of a pair as the page gets them: as they are, and on request as Markdown made harmless."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import nh3
from markdown_it import MarkdownIt

from preftree.collect.records import Shown
from preftree.data.formats.prompts_alone import prompt_of

_TAGS = {"p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"}
_TAGS |= {"table", "thead", "tbody", "tr", "th", "td"} | {f"h{level}" for level in range(1, 7)}
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")


def as_html(text: str) -> str:
    """Markdown as HTML without images, scripts, styles and foreign attributes."""
    return nh3.clean(
        _MARKDOWN.render(text),
        tags=_TAGS,
        attributes={"a": {"href"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )


def card(project: sqlite3.Connection, shown: Shown, turn: int, *, html: bool) -> dict[str, Any]:
    """What the page gets of a pair: its texts by side, and nothing that says whose they are."""
    prompt, *texts = project.execute(
        """SELECT i.prompt, a.text, b.text FROM pair p JOIN item i ON i.id = p.item
           JOIN response a ON a.id = p.first JOIN response b ON b.id = p.second WHERE p.id = ?""",
        (shown.pair,),
    ).fetchone()
    left, right = texts if shown.first_is_left else reversed(texts)
    return {
        "shown": shown.id,
        "turn": turn,
        "prompt": [part(words, html) | {"role": role} for role, words in _turns(prompt)],
        "left": part(left, html),
        "right": part(right, html),
    }


def part(words: str, html: bool) -> dict[str, str]:
    """A text, with its HTML where that is wanted."""
    return {"text": words} | ({"html": as_html(words)} if html else {})


def _turns(prompt: str) -> list[tuple[str, str]]:
    """Role and words of each turn; what a turn has beside its words follows them as JSON."""
    given = prompt_of(json.loads(prompt))
    if isinstance(given, str):
        return [("prompt", given)]
    rest = [json.dumps(dict(turn.rest), ensure_ascii=False, indent=1) if turn.rest else "" for turn in given]
    return [
        (turn.role, "\n\n".join(filter(None, (turn.content, more)))) for turn, more in zip(given, rest, strict=True)
    ]

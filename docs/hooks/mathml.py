"""Formulas of a page become MathML when the site is built, so that no script draws them in the browser."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>div|span) class="arithmatex">\\(?:\[|\()(?P<latex>.*?)\\(?:\]|\))</(?P=tag)>', re.DOTALL
)


def on_page_content(content: str, **_: Any) -> str:
    """The HTML of a page with its formulas as MathML; called by mkdocs."""
    return _FORMULA.sub(_as_mathml, content)


def _as_mathml(match: re.Match[str]) -> str:
    is_block = match["tag"] == "div"
    formula = convert(html.unescape(match["latex"]), display="block" if is_block else "inline")
    return f'<div class="formula">{formula}</div>' if is_block else formula

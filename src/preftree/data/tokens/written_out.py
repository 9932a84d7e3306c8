"""Marks written out in the texts of a row: special tokens, and what the chat template writes by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from preftree.data.rows.faults import RowFault
from preftree.data.tokens.encoder import Encoder
from preftree.data.tokens.template_facts import TemplateFacts
from preftree.records import Message, template_options_of, tools_of


def check_special(encoder: Encoder, text: str, field: str) -> None:
    """Check that a text contains no special tokens, which would end a response or open a turn within it.

    Raises:
      RowFault: it does, or becomes one by the tokenizer's normalisation.
    """
    match = encoder.special.search(text)
    if match:
        raise _special(field, match.group())
    if encoder.normalises:
        _check_ids(encoder, [text], field, encoder.special_ids)


def check_turns(encoder: Encoder, turns: Sequence[Message], field: str) -> None:
    """Check that no text of some turns writes out what only the template writes.

    One thought at the beginning of an assistant's text is the template's to read, and may have its marks.

    Raises:
      RowFault: a text does, or becomes one of its tokens by the tokenizer's normalisation.
    """
    facts = encoder.facts()
    texts: list[str] = []
    for turn in turns:
        texts += facts.split_thought(turn.content) if turn.role == "assistant" else (turn.content,)
        texts += _strings(turn.rest)
    _check_texts(encoder, facts, texts, field)


def check_beside(encoder: Encoder, asked: object) -> None:
    """As `check_turns`, for the tools and the options of a prompt.

    Raises:
      RowFault: one of their texts writes out what only the template writes.
    """
    for field, value in (("tools", tools_of(asked)), ("chat_template_kwargs", template_options_of(asked))):
        if value:
            _check_texts(encoder, encoder.facts(), list(_strings(value)), field)


def _check_texts(encoder: Encoder, facts: TemplateFacts, texts: Sequence[str], field: str) -> None:
    for text in texts:
        if match := encoder.special.search(text):
            raise _special(field, match.group())
        if facts.tokens is not None and (match := facts.tokens.search(text)):
            raise _written(field, match.group())
        if facts.headers is not None and (match := facts.headers.search(text)):
            raise _written(field, match.group())
    if encoder.normalises:
        _check_ids(encoder, texts, field, {**facts.written, **encoder.special_ids})


def _check_ids(encoder: Encoder, texts: Sequence[str], field: str, marks: Mapping[int, str]) -> None:
    for ids in encoder.later(texts):
        for number in ids.tolist():
            if number in marks:
                message = f"'{field}' becomes the token {marks[number]!r} by the tokenizer's normalisation; take it out"
                raise RowFault("special_token", field, message)


def _strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value, keys of objects among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _special(field: str, token: str) -> RowFault:
    message = (
        f"'{field}' writes out the special token {token!r}; take it out, or give messages where a template made it"
    )
    return RowFault("special_token", field, message)


def _written(field: str, mark: str) -> RowFault:
    message = (
        f"'{field}' writes out {mark!r}, which the chat template itself writes around turns, thoughts or calls; take "
        "it out, or give the field that the template makes it of: messages, 'reasoning_content', 'tool_calls'"
    )
    return RowFault("special_token", field, message)

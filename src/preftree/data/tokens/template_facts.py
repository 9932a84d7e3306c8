"""What a chat template writes by itself, learned from renderings of small conversations and from its source.

Texts of a row must not write the same: they would close their turn, open another one, or begin a thought or a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.data.rows.faults import RowFault
from preftree.data.tokens.apply_template import EndlessTemplate, apply_template
from preftree.errors import ModelError
from preftree.records import Conversation, Message

_WORDS = ("zqay", "zqby", "zqcy", "zqdy", "zqey")
"""Texts of the small conversations; a template may trim them."""

_THOUGHT = re.compile("think|thought|reason", re.IGNORECASE)
_SHORTEST_HEADER = 3


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """The marks of one template.

    Attributes:
      closing: Token that ends an assistant's turn, as text; None where no token does.
      written: Tokens that the template writes, by id: they open or close turns, thoughts and calls.
      tokens: Finds them in a text; None where there are none.
      headers: Finds what the template writes between turns where that holds no token; None where nothing does.
      thoughts: Pairs of tokens round a thought, opening and closing.
    """

    closing: str | None
    written: Mapping[int, str]
    tokens: re.Pattern[str] | None
    headers: re.Pattern[str] | None
    thoughts: tuple[tuple[str, str], ...]

    def split_thought(self, content: str) -> tuple[str, str]:
        """Thought and answer of an assistant's text that begins with one thought, in the marks of the template.

        The opening mark may be missing, since a prompt can end with it. A text of another form is all answer.
        """
        for opening, closing in self.thoughts:
            head, mark, answer = content.partition(closing)
            thought = head.lstrip().removeprefix(opening)
            if mark and closing not in answer and opening not in thought + answer:
                return thought, answer
        return "", content


def learn_template(
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[Sequence[str]], list[np.ndarray]],
    added: Mapping[int, str],
) -> TemplateFacts:
    """The marks of a tokenizer's template.

    Args:
      tokenizer: Has the template, or none.
      encode: Encodes texts without special tokens of its own.
      added: Tokens that are encoded whole wherever they are written, by id.
    """
    source = _source(tokenizer)
    marks = any_of(added.values())
    renderings = list(_renderings(tokenizer)) if source else []
    ids = {int(number) for row in encode([text for _, text in renderings]) for number in row}
    closing = _closing(renderings, marks)
    written = {
        number: token
        for number, token in added.items()
        if token == closing or (_is_mark(token) and (number in ids or token in source))
    }
    headers = {header for contents, text in renderings for header in _headers(contents, text, closing, marks)}
    return TemplateFacts(
        closing=closing,
        written=written,
        tokens=any_of(written.values()) if written else None,
        headers=any_of(headers) if headers else None,
        thoughts=tuple(_thoughts(written.values())),
    )


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Finds any of some texts, the longest first."""
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if token) or r"(?!)")


def _is_mark(token: str) -> bool:
    """Whether a token is more than white space, a sign or a word, which any text may hold."""
    return len(token.strip()) > 1 and not token.isalnum()


def _source(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.chat_template
    return "\n".join(map(str, template.values())) if isinstance(template, dict) else str(template or "")


def _probes() -> list[tuple[Message, ...]]:
    system, question, answer, other, last = _WORDS
    user, reply = Message("user", question), Message("assistant", answer)
    thought: dict[str, str] = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), other)
    call = {"id": "zqcall123", "type": "function", "function": {"name": "zqtool", "arguments": {"zqkey": "zqvalue"}}}
    tool = {"type": "function", "function": {"name": "zqtool", "description": "zqtext", "parameters": {}}}
    calls = (
        user,
        Message("assistant", "", rest={"tool_calls": [call]}),
        Message("tool", other, rest={"name": "zqtool", "tool_call_id": "zqcall123"}),
        Message("assistant", last),
    )
    return [
        (user, reply),
        (user, reply, Message("user", other)),
        (Message("system", system), user, reply, Message("user", other)),
        (user, Message("assistant", answer, rest=thought)),
        Conversation((user,), (), {"enable_thinking": False}),
        Conversation((user, Message("assistant", answer, rest=thought)), (), {"enable_thinking": True}),
        Conversation(calls, (tool,)),
    ]


def _renderings(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[str], str]]:
    """Small conversations that the template takes: the contents of the turns, and the rendered text."""
    for probe in _probes():
        for ask in (False, True):
            try:
                text = apply_template(tokenizer, probe, probe, "probe", ask=ask)
            except EndlessTemplate:
                raise
            except (RowFault, ModelError):  # it wants conversations of another form
                continue
            yield [turn.content for turn in probe], text


def _closing(renderings: list[tuple[list[str], str]], added: re.Pattern[str]) -> str | None:
    for (*_, answer), text in renderings:
        place = text.rfind(answer)
        if answer != _WORDS[2] or place < 0:
            continue
        match = next((m for m in added.finditer(text, place + len(answer)) if m.group().strip()), None)
        return match.group() if match else None
    return None


def _headers(contents: list[str], text: str, closing: str | None, added: re.Pattern[str]) -> Iterator[str]:
    """What stands between the contents of turns, and after the last, less the closing token, without a token in it."""
    places = [text.find(content) if content else -1 for content in contents]
    ends = [place + len(content) for place, content in zip(places, contents, strict=True)]
    for place, end, after in zip(places, ends, [*places[1:], len(text)], strict=True):
        if place < 0 or after < end:
            continue
        between = text[end:after] if closing is None else text[end:after].rpartition(closing)[2]
        header = between.rstrip().lstrip(" ")
        if header.strip() and len(header) >= _SHORTEST_HEADER and not added.search(between):
            yield header


def _thoughts(written: Iterable[str]) -> Iterator[tuple[str, str]]:
    tokens = set(written)
    for token in sorted(tokens):
        closing = f"{token[:1]}/{token[1:]}"
        if closing in tokens and _THOUGHT.search(token):
            yield token, closing

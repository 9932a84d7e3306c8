"""Checks that what a row says stands in what the chat template rendered: tools, calls, reasoning, turns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from preftree.data.rows.faults import RowFault
from preftree.data.tokens.apply_template import apply_template
from preftree.data.tokens.template_facts import TemplateFacts
from preftree.records import Conversation, Message, template_options_of, tools_of

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message that hold a thought; transformers gives each under the names of the others too."""

_OTHER = "zqother"


def check_prompt(
    tokenizer: PreTrainedTokenizerBase, facts: TemplateFacts, prompt: Sequence[Message], head: str
) -> None:
    """Check that the options, the tools and the turns of a prompt are in its rendering.

    Thoughts of earlier turns need not: templates leave them out on purpose.

    Args:
      tokenizer: Has the template.
      facts: Of the template.
      prompt: The turns, and the tools.
      head: The rendered prompt.
    Raises:
      RowFault: something is missing; its field is named.
    """
    if options := template_options_of(prompt):
        template = str(tokenizer.get_chat_template(tools=[dict(tool) for tool in tools_of(prompt)] or None))
        strange = next((name for name in options if not re.search(rf"\b{re.escape(name)}\b", template)), None)
        if strange is not None:
            raise unrendered(tokenizer, "chat_template_kwargs", f"{strange!r} is no variable of it")
    if tools := tools_of(prompt):
        names = [name for tool in tools if (name := _tool_name(tool)) is not None]
        lacking = next((name for name in names if not _stands(name, head)), None)
        if lacking is not None:
            raise unrendered(tokenizer, "tools", f"the tool {lacking!r} is not in the prompt")
        bare = Conversation(prompt, (), template_options_of(prompt))
        if _same(tokenizer, bare, head):
            raise unrendered(tokenizer, "tools", "the prompt is the same without them")
    for place, turn in enumerate(prompt):
        where = f"turn {place + 1} of the conversation"
        _, answer = facts.split_thought(turn.content) if turn.role == "assistant" else ("", turn.content)
        lost = answer.strip() and not _stands(answer.strip(), head)
        if lost and _same(tokenizer, _with(prompt, place, replace(turn, content=_OTHER)), head):
            raise unrendered(tokenizer, "prompt", f"the text of {where} ({turn.role}) is missing")
        if calls := turn.rest.get("tool_calls"):
            lacking = next((text for text in _call_texts(calls) if not _stands(text, head)), None)
            if lacking is not None:
                raise unrendered(tokenizer, "tool_calls", f"{lacking!r} of {where} is missing")
            others = [{"type": "function", "function": {"name": _OTHER, "arguments": {}}}]
            if _same(tokenizer, _with(prompt, place, replace(turn, rest={**turn.rest, "tool_calls": others})), head):
                raise unrendered(tokenizer, "tool_calls", f"the calls of {where} are missing")


def find_reasoning(tokenizer: PreTrainedTokenizerBase, turn: Message, whole: str, start: int, stop: int) -> int:
    """Where the reasoning of a turn ends in the rendered text between `start` and `stop`; `start` where it has none.

    Raises:
      RowFault: it is not there.
    """
    end = start
    for name in REASONING:
        text = turn.rest.get(name)
        if not isinstance(text, str) or not text.strip():
            continue
        place = whole.find(text.strip(), start, stop)
        if place < 0:
            raise unrendered(tokenizer, name, "the thought is missing")
        end = max(end, place + len(text.strip()))
    return end


def find_calls(tokenizer: PreTrainedTokenizerBase, turn: Message, whole: str, start: int, stop: int) -> int:
    """Where the calls of a turn end in the rendered text between `start` and `stop`; `start` where it has none.

    Raises:
      RowFault: the name or an argument of one is not there.
    """
    end = start
    for text in _call_texts(turn.rest.get("tool_calls") or ()):
        ends = [place + len(form) for form in _forms(text) if (place := whole.find(form, start, stop)) >= 0]
        if not ends:
            raise unrendered(tokenizer, "tool_calls", f"{text!r} of a call is missing")
        end = max(end, *ends)
    return end


def unrendered(tokenizer: PreTrainedTokenizerBase, field: str, missing: str) -> RowFault:
    """The fault of a field that the template does not render."""
    name = tokenizer.name_or_path or "the tokenizer"
    message = (
        f"'{field}' is not rendered by the chat template of {name}: {missing}; take it "
        "out of the row, or take a model whose template has a place for it"
    )
    return RowFault("unread_field", field, message)


def _same(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], head: str) -> bool:
    try:
        return apply_template(tokenizer, prompt, prompt, "prompt", ask=True) == head
    except RowFault:
        return False


def _with(prompt: Sequence[Message], place: int, turn: Message) -> Conversation:
    turns = [*prompt[:place], turn, *prompt[place + 1 :]]
    return Conversation(turns, tools_of(prompt), template_options_of(prompt))


def _tool_name(tool: Mapping[str, Any]) -> str | None:
    inner = tool.get("function")
    name = inner.get("name") if isinstance(inner, Mapping) else tool.get("name")
    return name if isinstance(name, str) and name else None


def _call_texts(calls: Any) -> Iterator[str]:
    """Names of the called functions, and the texts among their arguments."""
    for call in calls if isinstance(calls, list | tuple) else ():
        inner = call.get("function", call) if isinstance(call, Mapping) else {}
        if isinstance(name := inner.get("name"), str):
            yield name
        yield from _leaves(inner.get("arguments"))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)


def _stands(text: str, whole: str) -> bool:
    return any(form in whole for form in _forms(text))


def _forms(text: str) -> Iterator[str]:
    """A text as it is, and as JSON writes it."""
    yield text
    for ascii_only in (False, True):
        yield json.dumps(text, ensure_ascii=ascii_only)[1:-1]

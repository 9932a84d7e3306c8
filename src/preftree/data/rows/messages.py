"""Messages of a row, in the spellings that chat files use, and the cuts between prompt and response.

A message is {role, content}, {from, value}, or {role, parts}; {human, assistant} are two. Content is text, or a list of
parts: texts, thoughts (`reasoning_content` of the message) and tool calls. Every other key reaches the chat template,
except those that say whether a turn is trained on.
"""

from __future__ import annotations

import json
from typing import Any

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, check_texts, flag, is_sound, number, text, type_name
from preftree.records import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
OTHER_ROLES = {
    "human": "user",
    "prompter": "user",
    "customer": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
"""Roles under the names of ShareGPT, LLaMA-Factory, ms-swift, Gemini, OASST and others."""

_CALLS = ("function_call", "tool_call")
_ROLE = ("role", "from")
_CONTENT = ("content", "value", "parts", "text")
_TRAINED = ("train", "weight", "loss_weight", "loss")
_PLAIN = {"role", "content"}
_READ = {*_ROLE, *_CONTENT, *_TRAINED, "function_call"}
_THOUGHTS = ("reasoning", "thinking")
_ASKED = {"human", "user"}
MEDIA = ("image", "images", "image_url", "audio", "audios", "video", "videos")
"""Fields of pictures, sound and film, in rows and in messages."""


def refuse_media(row: Row, where: str) -> None:
    """Refuse a row or a message with pictures, sound or film.

    Raises:
      RowFault: it has some.
    """
    for name in MEDIA:
        if row.get(name):
            raise _media(f"{where}{name}")


def _media(where: str) -> RowFault:
    message = f"'{where}' holds images, sound or film, and Preftree trains on text alone; leave such rows out"
    return RowFault("not_text", where, message)


def messages(value: Any, where: str) -> tuple[Message, ...]:
    """A list of messages; one alone is a list of one."""
    if isinstance(value, dict):
        return (_message(value, where),)
    if not isinstance(value, list):
        raise RowFault("wrong_type", where, f"'{where}' must be a list of messages, got {type_name(value)}")
    turns: list[Message] = []
    for index, item in enumerate(value):
        if (plain := _plain_message(item)) is not None:  # names of fields are made where they are needed
            turns.append(plain)
            continue
        place = f"{where}[{index}]"
        if isinstance(item, dict) and "assistant" in item and _ASKED & item.keys():
            turns += _exchange(item, place)
        else:
            turns.append(_message(item, place))
    return tuple(turns)


def _exchange(value: Row, where: str) -> tuple[Message, Message]:
    """A question and its answer in one object: {human, assistant}."""
    asked = next(name for name in value if name in _ASKED)
    question, answer = text(value[asked], f"{where}.{asked}"), text(value["assistant"], f"{where}.assistant")
    return Message("user", question), Message("assistant", answer)


def _plain_message(value: Any) -> Message | None:
    """A message of a role and a sound text; None for any other, which `_message` reads or refuses."""
    if not isinstance(value, dict) or value.keys() != _PLAIN:
        return None
    role, content = value["role"], value["content"]
    return Message(role, content) if role in ROLES and isinstance(content, str) and is_sound(content) else None


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise RowFault("wrong_type", where, f"'{where}' must be a message, got {type_name(value)}")
    named = {name: item for name, item in value.items() if item is not None}
    refuse_media(named, f"{where}.")
    role_field = next((name for name in _ROLE if name in named), "role")
    given = text(named.get(role_field), f"{where}.{role_field}")
    role = OTHER_ROLES.get(given.lower(), given)
    if role not in ROLES:
        message = f"'{where}.{role_field}' must be one of {', '.join(ROLES)}, got {given[:40]!r}"
        raise RowFault("bad_messages", f"{where}.{role_field}", message)
    rest = {name: item for name, item in named.items() if name not in (*_READ, "tool_calls")}
    field = next((name for name in _CONTENT if name in named), "content")
    place = f"{where}.{field}"
    for name, item in named.items():
        if name not in _READ or name == "function_call":
            check_texts(item, f"{where}.{name}")
    if given in _CALLS:
        return Message(
            role, "", _train(named, role, where), rest | {"tool_calls": _tool_calls(named.get(field), place)}
        )
    calls = named.get("tool_calls") or ([named["function_call"]] if named.get("function_call") else None)
    if calls:
        rest["tool_calls"] = _tool_calls(calls, f"{where}.tool_calls")
    content = named.get(field)
    if isinstance(content, list):
        content, beside = _without_thoughts(content, place)
        rest |= beside
    absent = field not in named and rest
    return Message(role, "" if absent else content_text(content, place), _train(named, role, where), rest)


def _without_thoughts(parts: list[Any], where: str) -> tuple[list[Any], Row]:
    """The other parts of a content; its thoughts and tool calls as the keys of a message."""
    left, thoughts, calls = [], [], []
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        field = f"{where}[{index}]"
        if kind in _THOUGHTS:
            name = next((name for name in ("value", "text", kind) if part.get(name) is not None), "value")
            thoughts.append(text(part.get(name), f"{field}.{name}"))
        elif kind == "tool_call":
            calls += _tool_calls(part.get("value", part), field)
        else:
            left.append(part)
    rest: Row = {"reasoning_content": "".join(thoughts)} if thoughts else {}
    return left, rest | ({"tool_calls": calls} if calls else {})


def content_text(value: Any, where: str) -> str:
    """Content that is text, or a list of parts that are all text."""
    if not isinstance(value, list):
        return text(value, where)
    parts = []
    for index, part in enumerate(value):
        field = f"{where}[{index}]"
        if isinstance(part, str):
            parts.append(text(part, field))
            continue
        if not isinstance(part, dict):
            raise RowFault("wrong_type", field, f"'{field}' must be text or a part, got {type_name(part)}")
        name = next((name for name in ("text", "value") if isinstance(part.get(name), str)), None)
        if name is None or part.get("type") not in (None, "text", "input_text", "output_text"):
            raise _media(field)
        parts.append(text(part[name], f"{field}.{name}"))
    return "".join(parts)


def _tool_calls(value: Any, where: str) -> list[Row]:
    """Calls in the form that chat templates take: {type, function: {name, arguments}}, the arguments as an object."""
    calls = []
    value = _parsed(value)
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        field = f"{where}[{index}]"
        inner = item.get("function") if isinstance(item, dict) and isinstance(item.get("function"), dict) else item
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise RowFault("bad_messages", field, f"'{field}' must be a call with a name, got {type_name(item)}")
        arguments = inner.get("arguments", inner.get("parameters", {}))
        outer = {"id": item["id"]} if item is not inner and isinstance(item.get("id"), str) else {}
        calls.append(outer | {"type": "function", "function": {"name": inner["name"], "arguments": _parsed(arguments)}})
    return calls


def _parsed(value: Any) -> Any:
    """What a text of JSON holds, where that is an object or a list; else the value itself."""
    if not isinstance(value, str):
        return {} if value is None else value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed if isinstance(parsed, dict | list) else value


def tool_definitions(value: Any, where: str) -> tuple[Row, ...]:
    """Definitions of tools: a list of objects, or JSON text of one; none where it is empty."""
    value = _parsed(value)
    if isinstance(value, str) and not value.strip():
        return ()
    items = [value] if isinstance(value, dict) and value else value or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RowFault("wrong_type", where, f"'{where}' must be a list of tool definitions, got {type_name(value)}")
    check_texts(items, where)
    return tuple(items)


def _train(named: Row, role: str, where: str) -> bool | None:
    for name in _TRAINED:
        if name not in named:
            continue
        field = f"{where}.{name}"
        if name == "train" or isinstance(named[name], bool | str):
            train = flag(named[name], field)
        else:
            weight = number(named[name], field)
            if weight not in (0, 1):
                raise RowFault("bad_value", field, f"'{field}' must be 0 or 1, got {weight:g}; a turn is scored or not")
            train = weight == 1
        if role == "assistant":
            return train
        if train and name == "train":
            raise RowFault("bad_messages", field, f"'{field}': only assistant turns are trained on")
        return None
    return None


def prompt_messages(turns: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """A conversation that the assistant is to answer."""
    if not turns or turns[-1].role == "assistant":
        raise RowFault("bad_messages", where, f"'{where}' has no turn for the assistant to answer")
    return turns


def response_messages(turns: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """A response: it begins and ends with an assistant turn, and no assistant turn is blank."""
    if not turns or turns[0].role != "assistant" or turns[-1].role != "assistant":
        raise RowFault("bad_messages", where, f"'{where}' must begin and end with an assistant turn after its prompt")
    scored = marked = False
    for turn in turns:
        if turn.role != "assistant":
            continue
        if not turn.content.strip() and not turn.rest.get("tool_calls"):
            raise RowFault("empty_response", where, f"'{where}' holds an empty assistant turn; drop the row")
        scored, marked = scored or turn.train is not False, marked or turn.train is not None
    if not scored:
        raise RowFault("bad_messages", where, f"'{where}' has no assistant turn to score: 'train' is false in all")
    if not marked:
        return turns
    return tuple(Message(turn.role, turn.content, None, turn.rest) if turn.train else turn for turn in turns)


def split_dialogue(turns: tuple[Message, ...], where: str) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A whole conversation as prompt and response: the last assistant turn that is trained on, and all before it.

    Turns after it are left out: nothing that is scored depends on them.
    """
    if not turns or turns[-1].role != "assistant":
        raise RowFault("bad_messages", where, f"'{where}' must end with an assistant turn")
    place = max((i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.train is not False), default=-1)
    if place < 0:
        raise RowFault(
            "bad_messages", where, f"'{where}' has no assistant turn to train on: all are left out by weight"
        )
    return prompt_messages(turns[:place], where), response_messages(turns[place : place + 1], where)

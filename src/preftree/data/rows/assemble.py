"""Records out of the named parts of a row (parts.py).

Texts become a conversation where any of them is one, where there is a system message or tools, or where the format is
of chats; else they are plain text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import (
    Row,
    check_texts,
    figures,
    flag,
    items,
    number,
    numbers,
    preference,
    response_text,
    text,
    type_name,
    weight,
)
from preftree.data.rows.messages import (
    content_text,
    messages,
    prompt_messages,
    response_messages,
    split_dialogue,
    tool_definitions,
)
from preftree.data.rows.parts import NUMBERS, TEXTS, VERDICTS, Given, Parts, Present
from preftree.data.rows.ranking import rank
from preftree.records import (
    Conversation,
    Demonstration,
    Label,
    Message,
    Preference,
    Ranking,
    Record,
    Text,
    select_responses,
)

REPEATED_PROMPT = 16
"""Characters of a prompt from which a response that begins with all of it is taken for a mistake of the file."""


def assemble(given: Parts, *, chat: bool = False) -> Record:
    """The record that the parts of a row make.

    Args:
      given: The parts by target.
      chat: Whether plain texts are turns of a conversation: a prompt the user's, a response the assistant's.
    Raises:
      RowFault: a part is missing, is not what its target says, or contradicts another one.
    """
    parts = Present(given)
    try:
        return _assembled(parts, chat)
    except RowFault as fault:
        raise _by_field(fault, parts) from None


def _by_field(fault: RowFault, parts: Present) -> RowFault:
    """A fault of a part under the name that its field has in the row."""
    target, bracket, rest = fault.field.partition("[")
    if target not in (*NUMBERS, "system"):  # every other part is read under its field
        return fault
    field = parts.field(target) + bracket + rest
    return RowFault(fault.fault, field, fault.message.replace(f"'{fault.field}'", f"'{field}'"))


def _assembled(parts: Present, chat: bool) -> Record:
    beside = _Beside.read(parts)
    chat = chat or beside != _NOTHING or "messages" in parts or _has_turns(parts)
    if "responses" in parts.given:
        if "responses" in parts and isinstance(parts["responses"].value, list):
            chat = chat or any(isinstance(_value(item), list | dict) for item in parts["responses"].value)
        return _ranking(parts, beside, chat)
    if "a" in parts.given or "b" in parts.given:
        parts = _decided(parts)
    if "rejected" in parts.given:
        return _pair(parts, beside, chat)
    row = _figure_row(parts)
    name = "messages" if "messages" in parts.given and "response" not in parts.given else "response"
    prompt, response = _exchange(parts, name, beside, chat)
    if "label" in parts.given:
        field, value = parts.need("label")
        return Label(prompt, response, flag(value, field), weight(row), figures(row, "response"))
    return Demonstration(prompt, response, weight(row))


def _has_turns(parts: Present) -> bool:
    """Whether one of the texts is a list of messages, or one message."""
    return bool([name for name, part in parts.items() if isinstance(part.value, list | dict) and name in TEXTS])


def _value(item: Any) -> Any:
    return item.value if isinstance(item, Given) else item


@dataclass(frozen=True, slots=True)
class _Beside:
    """What a chat template gets beside the turns."""

    system: str | None = None
    tools: tuple[Row, ...] = ()
    options: Mapping[str, Any] | None = None

    @staticmethod
    def read(parts: Present) -> _Beside:
        if parts.keys().isdisjoint(("system", "tools", "chat_template_kwargs")):
            return _NOTHING
        system = tools = options = None
        if "system" in parts:
            field, value = parts["system"]
            value = value.get("content", value.get("parts")) if isinstance(value, dict) else value
            system = content_text(value, field)
        if "tools" in parts:
            field, value = parts["tools"]
            tools = tool_definitions(value, field)
        if "chat_template_kwargs" in parts:
            field, options = parts["chat_template_kwargs"]
            if not isinstance(options, dict):
                raise RowFault("wrong_type", field, f"'{field}' must be an object, got {type_name(options)}")
            check_texts(options, field)
            options = {name: value for name, value in options.items() if value is not None}
        return _Beside(system if system and system.strip() else None, tools or (), options or None)

    def around(self, turns: tuple[Message, ...], where: str) -> tuple[Message, ...]:
        """The turns of a prompt with the system message first, and with tools and options."""
        if self.system is not None:
            if turns and turns[0].role in ("system", "developer") and turns[0].content.strip() != self.system.strip():
                raise RowFault("bad_messages", "system", f"'system' differs from the system message of '{where}'")
            if not turns or turns[0].role not in ("system", "developer"):
                turns = (Message("system", self.system), *turns)
        return Conversation(turns, self.tools, self.options) if self.tools or self.options else turns


_NOTHING = _Beside()


def _figure_row(parts: Present) -> Row:
    """The parts that are numbers beside the texts, under the names that `fields` reads."""
    if NUMBERS.isdisjoint(parts):
        return {}
    return {name: parts[name].value for name in NUMBERS if name in parts}


def _plain(given: Given) -> str:
    return response_text(given.value, given.field)


def _plain_prompt(parts: Present) -> str:
    field, value = parts.need("prompt")
    return text(value, field)


def _prompt(parts: Present, beside: _Beside) -> tuple[Message, ...]:
    """The turns of the prompt."""
    field, value = parts.need("messages" if "messages" in parts.given and "prompt" not in parts else "prompt")
    turns = (Message("user", text(value, field)),) if isinstance(value, str) else messages(value, field)
    return prompt_messages(beside.around(turns, field), field)


def _response(given: Given, prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns of a response, also where its field repeats the prompt before them."""
    field, value = given
    if isinstance(value, str):
        return (Message("assistant", response_text(value, field)),)
    turns = messages(value, field)
    if turns and turns[0].role != "assistant":
        shared = tuple(turn for turn in prompt if turn.role not in ("system", "developer"))
        asked = turns if turns[0].role in ("system", "developer") else (*prompt[: len(prompt) - len(shared)], *turns)
        if asked[: len(prompt)] != tuple(prompt):
            raise RowFault("prompts_differ", field, f"'{field}' begins with another conversation than its prompt")
        turns = asked[len(prompt) :]
    return response_messages(turns, field)


def _check_repeats(prompt: str, responses: Mapping[str, str]) -> None:
    """Refuse plain responses that all begin with their prompt: a model would be trained to repeat it."""
    whole = prompt.strip()
    for response in responses.values():
        if not response.lstrip().startswith(whole):
            return
    if len(whole) >= REPEATED_PROMPT:
        field = next(iter(responses))
        message = f"'{field}' begins with the whole text of its prompt; take it out, or leave the prompt empty"
        raise RowFault("bad_value", field, message)


def _exchange(parts: Present, target: str, beside: _Beside, chat: bool) -> tuple[Text, Text]:
    """Prompt and response of a row with one response."""
    if target == "messages":
        field, value = parts.need("messages")
        prompt, response = split_dialogue(messages(value, field), field)
        return beside.around(prompt, field), response
    if not chat:
        prompt, response = _plain_prompt(parts), _plain(parts.need(target))
        _check_repeats(prompt, {parts[target].field: response})
        return prompt, response
    turns = _prompt(parts, beside)
    return turns, _response(parts.need(target), turns)


def _decided(parts: Present) -> Present:
    """Two answers and a verdict as chosen and rejected."""
    a, b = parts.need("a"), parts.need("b")
    field, winner = _verdict(parts)
    used = {"a", "b", "strength", *(target for way in VERDICTS for target in way)}
    rest = {target: part for target, part in parts.items() if target not in used}
    if "strength" in parts and winner != "tie":
        name, value = parts["strength"]
        rest["margin"] = Given(name, abs(number(value, name)))
    sides = ("b", "a") if winner == "b" else ("a", "b")
    for target, side in zip(("chosen", "rejected"), sides, strict=True):
        rest[target] = a if side == "a" else b
        if winner != "tie" and f"score_{side}" in parts:
            rest[f"score_{target}"] = parts[f"score_{side}"]
    return Present(rest | ({"tie": Given(field, True)} if winner == "tie" else {}))


def _verdict(parts: Present) -> Given:
    """The better answer, or a tie: by its name, by a flag for each answer, or by their scores."""
    if "a_wins" in parts.given:
        (left, value), (right, other) = parts.need("a_wins"), parts.need("b_wins")
        wins = flag(value, left), flag(other, right)
        if all(wins):
            raise RowFault("bad_value", right, f"'{left}' and '{right}' cannot both be true")
        return Given(left, "a" if wins[0] else "b" if wins[1] else "tie")
    if "winner" not in parts.given and "score_a" in parts.given:
        (left, value), (right, other) = parts.need("score_a"), parts.need("score_b")
        scores = number(value, left), number(other, right)
        return Given(left, "tie" if scores[0] == scores[1] else "a" if scores[0] > scores[1] else "b")
    field, winner = parts.need("winner")
    if winner not in ("a", "b", "tie"):
        raise RowFault("bad_value", field, f"'{field}' says neither answer nor a tie, got {str(winner)[:40]!r}")
    return Given(field, winner)


def _pair(parts: Present, beside: _Beside, chat: bool) -> Preference:
    row = _figure_row(parts)
    if not chat:
        prompt, better, worse = _plain_prompt(parts), parts.need("chosen"), parts.need("rejected")
        chosen, rejected = _plain(better), _plain(worse)
        _check_repeats(prompt, {better.field: chosen, worse.field: rejected})
        return preference(row, prompt, (better.field, chosen), (worse.field, rejected))
    if "chosen" not in parts.given and "messages" in parts.given:  # it ends with the chosen response
        field, value = parts.need("messages")
        turns, chosen = split_dialogue(messages(value, field), field)
        prompt, name = prompt_messages(beside.around(turns, field), field), field
        rejected = _response(parts.need("rejected"), prompt)
        return preference(row, prompt, (name, chosen), (parts["rejected"].field, rejected))
    (left, chosen_value), (right, rejected_value) = parts.need("chosen"), parts.need("rejected")
    asked = "messages" in parts or ("prompt" in parts and not isinstance(parts["prompt"].value, str))
    if not (asked or isinstance(chosen_value, str) or isinstance(rejected_value, str)):
        sides = messages(chosen_value, left), messages(rejected_value, right)
        if all(side[:1] and side[0].role != "assistant" for side in sides):
            prompt, chosen, rejected = _part(*sides, left, right)
            _check_question(parts, prompt, left, right)
            prompt = beside.around(prompt_messages(prompt, left), left)
            pair = (left, response_messages(chosen, left)), (right, response_messages(rejected, right))
            return preference(row, prompt, *pair)
    prompt = _prompt(parts, beside)
    chosen, rejected = _response(parts["chosen"], prompt), _response(parts["rejected"], prompt)
    return preference(row, prompt, (left, chosen), (right, rejected))


def _check_question(parts: Present, prompt: tuple[Message, ...], left: str, right: str) -> None:
    """Refuse a prompt given as text that is none of the turns that two whole conversations share."""
    if "prompt" in parts:
        field, question = parts["prompt"]
        if text(question, field).strip() not in (turn.content.strip() for turn in prompt if turn.role == "user"):
            raise RowFault("prompts_differ", field, f"'{field}' is not a user turn of '{left}' and '{right}'")


def _part(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...], left: str, right: str
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """Prompt and responses of two whole conversations.

    The responses begin at the first assistant turn that differs, or at the last shared one where a side ends.
    """
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    if shared < min(len(chosen), len(rejected)):
        if chosen[shared].role != "assistant" or rejected[shared].role != "assistant":
            message = f"'{left}' and '{right}' part at message {shared}, which is not the assistant's in both"
            raise RowFault("prompts_differ", right, message)
        place = shared
    else:
        place = max((place for place in range(shared) if chosen[place].role == "assistant"), default=0)
    return chosen[:place], chosen[place:], rejected[place:]


def _ranking(parts: Present, beside: _Beside, chat: bool) -> Ranking:
    row = _figure_row(parts)
    field, value = parts.need("responses")
    given = [
        item if isinstance(item, Given) else Given(f"{field}[{index}]", item)
        for index, item in enumerate(items(value, field))
    ]
    named: list[tuple[str, Text]]
    if chat:
        turns = _prompt(parts, beside)
        prompt: Text = turns
        named = [(item.field, _response(item, turns)) for item in given]
    else:
        prompt = _plain_prompt(parts)
        named = [(name, response_text(item, name)) for name, item in given]
        _check_repeats(prompt, {name: str(response) for name, response in named})
    for order in {"scores", "ranks"} & parts.given.keys():
        parts.need(order)
    numbered = figures(row, "list", len(named))
    if "scores" in numbered or "ranks" not in parts:
        return rank(row, prompt, named, numbered, field)
    ranks = numbers(parts["ranks"].value, parts["ranks"].field, len(named))
    if len(set(ranks)) < len(ranks):  # equal ranks are ties: scores say so
        return rank(row, prompt, named, numbered | {"scores": tuple(-place for place in ranks)}, field)
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    return rank(row, prompt, [named[i] for i in order], select_responses(numbered, order), field)

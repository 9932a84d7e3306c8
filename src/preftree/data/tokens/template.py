"""Rendering of conversations by the tokenizer's chat template, cut at the start and end of assistant turns.

The prompt is what the model is given when it is asked: the turns so far and the header of the assistant's turn. The
template must render the same text when the response follows; what comes after it is the response, up to and including
the token that closes the turn. A turn that the template does not close gets the tokenizer's EOS at the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.data.rows.faults import RowFault
from preftree.data.tokens.encoder import Encoder, Ids, make_encoder
from preftree.errors import DataError, ModelError
from preftree.records import Message

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class ResponsePiece:
    """A piece of a response that is encoded by itself.

    Attributes:
      text: As it is encoded, special tokens of the template included.
      scored: Whether its tokens count.
      closed: Whether it ends its turn already; if not, and it is the last piece, an EOS follows.
    """

    text: str
    scored: bool
    closed: bool


@dataclass(frozen=True, slots=True)
class RenderedTexts:
    """A prompt and its responses as text ready to encode.

    Attributes:
      prompt: The text that the model is given.
      responses: The pieces of each response.
      trained: Ids of the prompt and the places [start, stop) of earlier turns to train on, where any asked for it.
    """

    prompt: str
    responses: tuple[tuple[ResponsePiece, ...], ...]
    trained: tuple[Ids, tuple[tuple[int, int], ...]] | None = None


def check_template(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Check that there is a template.

    Raises:
      DataError: the tokenizer has none.
    """
    if not tokenizer.chat_template:
        raise DataError(
            f"{path} holds conversations, and tokenizer {tokenizer.name_or_path} has no chat template to render them; "
            "take an instruct model, or put a chat_template.jinja into the model folder"
        )


def render(
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    prompt: Sequence[Message],
    responses: Sequence[tuple[str, Sequence[Message]]],
) -> RenderedTexts:
    """Render a prompt and its responses, each response under the name of its field.

    Raises:
      RowFault: the template refuses the conversation or alters a text, or a message contains a special token.
      DataError: an earlier turn wants to be trained on, and the template does not mark assistant turns.
    """
    for field, turns in (("prompt", prompt), *responses):
        for turn in turns:
            check_special(encoder.special, turn.content, field)
    head = _apply(tokenizer, prompt, "prompt", ask=True)
    parts = tuple(_respond(tokenizer, encoder.added, prompt, head, turns, field) for field, turns in responses)
    trained = _earlier(tokenizer, prompt) if any(turn.train for turn in prompt) else None
    return RenderedTexts(head, parts, trained)


def closing_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template ends an assistant's turn; None without a template, or where none does."""
    if not tokenizer.chat_template:
        return None
    answer = "42"
    try:
        whole = _apply(tokenizer, [Message("user", "What?"), Message("assistant", answer)], "prompt", ask=False)
    except RowFault:
        return None  # it wants conversations of another form; they still end with the EOS
    match = make_encoder(tokenizer).added.search(whole, whole.rfind(answer) + len(answer))
    number = tokenizer.convert_tokens_to_ids(match.group()) if match else None
    return number if isinstance(number, int) else None


def check_special(special: re.Pattern[str], text: str, field: str) -> None:
    """Check that a text contains no special tokens, which would end a response or open a turn within it.

    Raises:
      RowFault: it does.
    """
    match = special.search(text)
    if match:
        token = repr(match.group())
        message = (
            f"'{field}' writes out the special token {token}; take it out, or give messages where a template made it"
        )
        raise RowFault("special_token", field, message)


def _respond(
    tokenizer: PreTrainedTokenizerBase,
    added: re.Pattern[str],
    prompt: Sequence[Message],
    head: str,
    turns: Sequence[Message],
    field: str,
) -> tuple[ResponsePiece, ...]:
    whole = _apply(tokenizer, [*prompt, *turns], field, ask=False)
    places = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    heads = [head if not place else _apply(tokenizer, [*prompt, *turns[:place]], field, ask=True) for place in places]
    if not all(whole.startswith(beginning) for beginning in heads):
        message = f"the template renders the prompt of '{field}' otherwise once it is answered"
        raise RowFault("template_alters_prompt", field, message)
    parts: list[ResponsePiece] = []
    for index, place in enumerate(places):
        last = index + 1 == len(places)
        start, stop = len(heads[index]), len(whole) if last else len(heads[index + 1])
        content = turns[place].content
        if content not in whole[start:stop]:
            content = content.strip()
        at = whole.find(content, start, stop)
        end = at + len(content)
        closing = added.search(whole, end, stop)
        # Text after the last answer of a template that closes no turn changes the answer, unless it is a line break.
        if at < 0 or (last and closing is None and whole[end:].strip()):
            message = f"the template leaves out, adds to or rewrites the text of '{field}'"
            raise RowFault("template_alters_response", field, message)
        cut = closing.end() if closing else end
        parts.append(ResponsePiece(whole[start:cut], turns[place].train is not False, closing is not None))
        if not last and cut < stop:
            parts.append(ResponsePiece(whole[cut:stop], False, True))
    return tuple(parts)


def _earlier(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> tuple[Ids, tuple[tuple[int, int], ...]]:
    """Ids of the prompt, and where the earlier turns that ask to be trained on lie in it."""
    if not _MARKERS.search(tokenizer.get_chat_template()):
        raise DataError(
            "earlier assistant turns ask to be trained on ('train': true), but the chat template of "
            f"{tokenizer.name_or_path} has no {{% generation %}} markers; add them, or take 'train' out of the data"
        )
    rendered = tokenizer.apply_chat_template(
        _turns(prompt), add_generation_prompt=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert not isinstance(rendered, str | list)
    mask = np.array([0, *rendered["assistant_masks"], 0])
    edges = np.flatnonzero(np.diff(mask)).reshape(-1, 2).tolist()
    asked = [turn.train for turn in prompt if turn.role == "assistant"]
    if len(edges) != len(asked):
        message = f"the template marks {len(edges)} assistant turns of the prompt, wanted {len(asked)}"
        raise RowFault("bad_messages", "prompt", message)
    spans = tuple((start, stop) for (start, stop), wanted in zip(edges, asked, strict=True) if wanted)
    return np.array(rendered["input_ids"], np.int32), spans


def _apply(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], field: str, *, ask: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(_turns(turns), tokenize=False, add_generation_prompt=ask)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"the chat template of {tokenizer.name_or_path} is not Jinja: {error}") from error
    except (jinja2.TemplateError, TypeError, ValueError) as error:  # a template may do anything with what it is given
        reason = " ".join(str(error).split())
        raise RowFault("bad_messages", field, f"the chat template refuses '{field}': {reason}") from None
    assert isinstance(text, str)
    return text


def _turns(turns: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]

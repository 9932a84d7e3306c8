"""Rendering of conversations by the tokenizer's chat template, split at the start and end of assistant turns.

The prompt is the input of sampling: the turns so far and the header of the assistant's turn. The template must render
the same text when the response follows; the text after it is the response, up to and including the token that closes
the turn. A turn that the template does not close gets the tokenizer's EOS at the end.
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
    """A piece of a response that is encoded separately.

    Attributes:
      text: Text to encode, including special tokens of the template.
      scored: Whether its tokens are scored.
      closed: Whether it closes its turn; otherwise an EOS follows the last piece.
    """

    text: str
    scored: bool
    closed: bool


@dataclass(frozen=True, slots=True)
class RenderedTexts:
    """A prompt and its responses as text to encode.

    Attributes:
      prompt: Rendered text of the prompt.
      responses: The pieces of each response.
      trained: Ids of the prompt and ranges [start, stop) of earlier turns to train on, if there are any.
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
      DataError: an earlier turn is to be trained on, and the template does not mark assistant turns.
    """
    for field, turns in (("prompt", prompt), *responses):
        for turn in turns:
            check_special(encoder.special, turn.content, field)
    head = _apply(tokenizer, prompt, "prompt", ask=True)
    parts = tuple(_respond(tokenizer, encoder.added, prompt, head, turns, field) for field, turns in responses)
    trained = _earlier(tokenizer, prompt) if any(turn.train for turn in prompt) else None
    return RenderedTexts(head, parts, trained)


def closing_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template closes an assistant's turn; None without a template or such a token."""
    if not tokenizer.chat_template:
        return None
    answer = "42"
    try:
        rendered = _apply(tokenizer, [Message("user", "What?"), Message("assistant", answer)], "prompt", ask=False)
    except RowFault:
        return None  # the template needs another form of conversations, which still end with the EOS
    match = make_encoder(tokenizer).added.search(rendered, rendered.rfind(answer) + len(answer))
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
            f"'{field}' writes out the special token {token}; remove it, or give messages where a template added it"
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
    rendered = _apply(tokenizer, [*prompt, *turns], field, ask=False)
    assistants = [index for index, message in enumerate(turns) if message.role == "assistant"]
    heads = [head if not turn else _apply(tokenizer, [*prompt, *turns[:turn]], field, ask=True) for turn in assistants]
    if not all(rendered.startswith(beginning) for beginning in heads):
        message = f"the template renders the prompt of '{field}' differently when the response follows"
        raise RowFault("template_alters_prompt", field, message)
    parts: list[ResponsePiece] = []
    for index, turn in enumerate(assistants):
        last = index + 1 == len(assistants)
        start, stop = len(heads[index]), len(rendered) if last else len(heads[index + 1])
        content = turns[turn].content
        if content not in rendered[start:stop]:
            content = content.strip()
        at = rendered.find(content, start, stop)
        end = at + len(content)
        closing = added.search(rendered, end, stop)
        # Text after the last response, in a template that closes no turn, changes the response unless it is a line
        # break.
        if at < 0 or (last and closing is None and rendered[end:].strip()):
            message = f"the template omits, extends or rewrites the text of '{field}'"
            raise RowFault("template_alters_response", field, message)
        cut = closing.end() if closing else end
        parts.append(ResponsePiece(rendered[start:cut], turns[turn].train is not False, closing is not None))
        if not last and cut < stop:
            parts.append(ResponsePiece(rendered[cut:stop], False, True))
    return tuple(parts)


def _earlier(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> tuple[Ids, tuple[tuple[int, int], ...]]:
    """Ids of the prompt, and the ranges of its earlier turns with `train` true."""
    if not _MARKERS.search(tokenizer.get_chat_template()):
        raise DataError(
            "earlier assistant turns are to be trained on ('train': true), but the chat template of "
            f"{tokenizer.name_or_path} has no {{% generation %}} markers; add them, or take 'train' out of the data"
        )
    rendered = tokenizer.apply_chat_template(
        _turns(prompt), add_generation_prompt=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert not isinstance(rendered, str | list)
    mask = np.array([0, *rendered["assistant_masks"], 0])
    edges = np.flatnonzero(np.diff(mask)).reshape(-1, 2).tolist()
    trained = [turn.train for turn in prompt if turn.role == "assistant"]
    if len(edges) != len(trained):
        message = f"the template marks {len(edges)} assistant turns of the prompt, wanted {len(trained)}"
        raise RowFault("bad_messages", "prompt", message)
    spans = tuple((start, stop) for (start, stop), train in zip(edges, trained, strict=True) if train)
    return np.array(rendered["input_ids"], np.int32), spans


def _apply(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], field: str, *, ask: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(_turns(turns), tokenize=False, add_generation_prompt=ask)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"the chat template of {tokenizer.name_or_path} is not Jinja: {error}") from error
    except (jinja2.TemplateError, TypeError, ValueError) as error:  # a template may raise any of these on its input
        reason = " ".join(str(error).split())
        raise RowFault("bad_messages", field, f"the chat template refuses '{field}': {reason}") from None
    assert isinstance(text, str)
    return text


def _turns(turns: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]

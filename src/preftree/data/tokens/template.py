"""Rendering of conversations by the tokenizer's chat template, cut at the start and end of assistant turns.

The prompt is what the model is given when it is asked: the turns so far and the header of the assistant's turn. The
template must render the same text when the response follows; what comes after it is the response, up to and including
the token that closes the turn. So a response to a header that opens a thought begins within the thought. A turn that
the template does not close gets the tokenizer's EOS at the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.data.rows.faults import RowFault
from preftree.data.tokens.apply_template import apply_template, rendering, template_arguments
from preftree.data.tokens.came_out import check_prompt, find_calls, find_reasoning
from preftree.data.tokens.encoder import Encoder, Ids, make_encoder
from preftree.data.tokens.written_out import check_beside, check_special, check_turns
from preftree.errors import DataError
from preftree.records import Conversation, Message, template_options_of, tools_of

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
      earlier: The pieces of the prompt, where earlier turns of it are trained on and their places were found by
        rendering; the first is a header, and not scored.
      trained: Where the template's markers say it: ids of the prompt, and the places [start, stop) of these turns.
    """

    prompt: str
    responses: tuple[tuple[ResponsePiece, ...], ...]
    earlier: tuple[ResponsePiece, ...] = ()
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
    *,
    sampled: bool = False,
) -> RenderedTexts:
    """Render a prompt and its responses, each response under the name of its field.

    Args:
      tokenizer: Has the template.
      encoder: Of that tokenizer.
      prompt: The turns; a Conversation has tools and options of the template as well.
      responses: The turns after it.
      sampled: Whether a model wrote the responses: then only special tokens are refused in them, since it may write
        anything else, and is judged by it.
    Raises:
      RowFault: the template refuses the conversation, leaves out or alters a part of it, or a text writes out a mark.
      DataError: an earlier turn is to be trained on, and there is no way to find it in the rendered text.
    """
    check_beside(encoder, prompt)
    check_turns(encoder, prompt, "prompt")
    for field, turns in responses:
        if sampled:
            for turn in turns:
                check_special(encoder, turn.content, field)
        else:
            check_turns(encoder, turns, field)
    head = apply_template(tokenizer, prompt, prompt, "prompt", ask=True)
    if head:
        check_prompt(tokenizer, encoder.facts(), prompt, head)
    parts = tuple(_respond(tokenizer, encoder, prompt, head, turns, field) for field, turns in responses)
    if not any(turn.train for turn in prompt):
        return RenderedTexts(head, parts)
    earlier = _earlier(tokenizer, encoder, prompt, head)
    return RenderedTexts(head, parts, earlier, None if earlier else _marked(tokenizer, prompt))


def closing_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template ends an assistant's turn; None without a template, or where none does."""
    if not tokenizer.chat_template:
        return None
    closing = make_encoder(tokenizer).facts().closing
    number = None if closing is None else tokenizer.convert_tokens_to_ids(closing)
    return number if isinstance(number, int) else None


@dataclass(frozen=True, slots=True)
class _Dialogue:
    """Turns, the text that they render to, and what is needed to find them in it.

    Attributes:
      asked: The prompt, which knows tools and options.
      turns: Turns of the prompt and of a response.
      whole: Their text.
      field: Name of the turns that are looked for, for errors.
    """

    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    asked: Sequence[Message]
    turns: Sequence[Message]
    whole: str
    field: str

    def head(self, place: int) -> str:
        """The text of the turns before `place` and of the header after them."""
        return apply_template(self.tokenizer, self.turns[:place], self.asked, self.field, ask=True)

    def end(self, place: int, stop: int) -> int:
        """Where the turn at `place` ends with all that the template writes, at most `stop`."""
        if place + 1 == len(self.turns):
            return stop
        done = apply_template(self.tokenizer, self.turns[: place + 1], self.asked, self.field, ask=False)
        return min(stop, len(done)) if self.whole.startswith(done) else stop

    def closed(self, place: int, start: int, stop: int) -> tuple[int, bool]:
        """Where the answer at `place`, which begins at `start`, ends, and whether a token closes it.

        Raises:
          RowFault: the text between does not hold what the turn says.
        """
        turn, facts, whole = self.turns[place], self.encoder.facts(), self.whole
        calls = bool(turn.rest.get("tool_calls"))
        if facts.closing is None or calls:
            stop = self.end(place, stop)
        closing = -1 if facts.closing is None else whole.find(facts.closing, start, stop)
        if closing >= 0 and not calls:  # no text holds the closing token, so the first one ends this turn
            self._said(turn, start, closing)
            return closing + len(facts.closing or ""), True
        end = find_calls(self.tokenizer, turn, whole, self._said(turn, start, stop), stop)
        closing = -1 if facts.closing is None else whole.find(facts.closing, end, stop)
        if closing >= 0:
            return closing + len(facts.closing or ""), True
        marks = [match.end() for match in self.encoder.added.finditer(whole, end, stop) if match.group().strip()]
        if marks:
            return marks[-1] if calls else marks[0], True
        if calls:
            return start + len(whole[start:stop].rstrip()), False
        # Text after the last answer of a template that closes no turn changes the answer, unless it is a line break.
        if place + 1 == len(self.turns) and whole[end:].strip():
            raise self._altered()
        return end, False

    def _said(self, turn: Message, start: int, stop: int) -> int:
        """Where reasoning, thought and answer of a turn end, each after the one before."""
        end = find_reasoning(self.tokenizer, turn, self.whole, start, stop)
        for text in self.encoder.facts().split_thought(turn.content):
            if self.whole.find(text, end, stop) < 0:
                text = text.strip()
            place = self.whole.find(text, end, stop)
            if place < 0:
                raise self._altered()
            end = place + len(text)
        return end

    def _altered(self) -> RowFault:
        message = f"the template omits, extends or rewrites the text of '{self.field}'"
        return RowFault("template_alters_response", self.field, message)

    def pieces(self, places: Sequence[int], heads: Sequence[str], *, rest: bool) -> tuple[ResponsePiece, ...]:
        """The text after the first header in pieces: the turns at `places`, and what stands between them.

        Args:
          places: The turns.
          heads: The text before each.
          rest: Whether what follows the last one is a piece too.
        Raises:
          RowFault: a turn is not in the text as it is.
        """
        parts: list[ResponsePiece] = []
        for index, place in enumerate(places):
            last = index + 1 == len(places)
            start, stop = len(heads[index]), len(self.whole) if last else len(heads[index + 1])
            cut, closed = self.closed(place, start, stop)
            parts.append(ResponsePiece(self.whole[start:cut], self.turns[place].train is not False, closed))
            if cut < stop and (rest or not last):
                parts.append(ResponsePiece(self.whole[cut:stop], False, True))
        return tuple(parts)


def _respond(
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    prompt: Sequence[Message],
    head: str,
    turns: Sequence[Message],
    field: str,
) -> tuple[ResponsePiece, ...]:
    whole = apply_template(tokenizer, [*prompt, *turns], prompt, field, ask=False)
    dialogue = _Dialogue(tokenizer, encoder, prompt, [*prompt, *turns], whole, field)
    places = [len(prompt) + index for index, turn in enumerate(turns) if turn.role == "assistant"]
    heads = [head, *(dialogue.head(place) for place in places[1:])]
    if not all(whole.startswith(beginning) for beginning in heads):
        message = f"the template renders the prompt of '{field}' differently when the response follows"
        raise RowFault("template_alters_prompt", field, message)
    parts = dialogue.pieces(places, heads, rest=False)
    if len(places) > 1:  # the turns between them
        asked = Conversation(dialogue.turns[: places[-1]], tools_of(prompt), template_options_of(prompt))
        check_prompt(tokenizer, encoder.facts(), asked, heads[-1])
    return parts


def _earlier(
    tokenizer: PreTrainedTokenizerBase, encoder: Encoder, prompt: Sequence[Message], head: str
) -> tuple[ResponsePiece, ...]:
    """The pieces of a prompt with turns to train on; none where an answered turn is rendered otherwise later on.

    Raises:
      RowFault: such a turn is not in the text as it is.
    """
    dialogue = _Dialogue(tokenizer, encoder, prompt, list(prompt), head, "prompt")
    places = [place for place, turn in enumerate(prompt) if turn.train]
    try:
        heads = [dialogue.head(place) for place in places]
    except RowFault:  # it takes no beginning of this conversation
        return ()
    if not all(head.startswith(beginning) for beginning in heads):
        return ()
    return (ResponsePiece(heads[0], False, True), *dialogue.pieces(places, heads, rest=True))


def _marked(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> tuple[Ids, tuple[tuple[int, int], ...]]:
    """Ids of the prompt, and where the earlier turns to train on lie in it, by the template's own markers."""
    arguments = template_arguments(prompt, prompt)
    if not _MARKERS.search(tokenizer.get_chat_template(tools=arguments["tools"])):
        raise DataError(
            "earlier assistant turns are to be trained on ('train': true, or data.turns=all), but the chat template of "
            f"{tokenizer.name_or_path} renders them otherwise once the conversation goes on, and has no "
            "{% generation %} markers; add them, or train on the last turn alone"
        )
    with rendering(tokenizer, "prompt"):
        rendered = tokenizer.apply_chat_template(
            **arguments,
            add_generation_prompt=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
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

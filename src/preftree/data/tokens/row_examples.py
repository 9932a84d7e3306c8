"""Examples of one row: from its texts to token ids that fit the budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal, TypeAlias

import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.data.rows.conversion import split_record
from preftree.data.rows.faults import RowFault, Tally
from preftree.data.rows.texts import named_texts
from preftree.data.store.example import NO_PROMPT
from preftree.data.store.writer import NewExample
from preftree.data.tokens.budgets import Budgets, Fit, Truncation, fit, too_long
from preftree.data.tokens.encoder import Encoder, Ids
from preftree.data.tokens.template import RenderedTexts, ResponsePiece, render
from preftree.data.tokens.written_out import check_special
from preftree.records import (
    FIGURES,
    Conversation,
    Demonstration,
    Kind,
    Label,
    Message,
    Preference,
    Provenance,
    Ranking,
    Record,
    select_responses,
    template_options_of,
    tools_of,
)

Turns: TypeAlias = Literal["last", "all"]
"""Assistant turns of a demonstration that are imitated."""


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """One row ready to encode.

    Attributes:
      where: Place of the row.
      texts: Its texts as they are encoded.
      templated: Whether the chat template rendered them.
      fields: Names of its responses, for errors.
      examples: The examples that it makes: places of their responses, and a record of the wanted kind.
      kind: That kind.
      tie: Whether the row is a tie; its examples say so whatever their kind.
      ranked: Whether the row is a ranking, of which some pairs may be left out.
    """

    where: Provenance
    texts: RenderedTexts
    templated: bool
    fields: tuple[str, ...]
    examples: list[tuple[tuple[int, ...], Record]]
    kind: Kind
    tie: bool
    ranked: bool


def render_row(
    where: Provenance,
    record: Record,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    kind: Kind = "pair",
    turns: Turns = "last",
) -> RenderedRow:
    """A record as texts to encode: plain text unchanged, a conversation through the chat template.

    Args:
      where: Place of the row.
      record: The row as it was read.
      tokenizer: Renders conversations.
      encoder: Finds special tokens.
      kind: Kind of the examples: `pair` makes pairs of a ranking, `response` two examples of a pair.
      turns: Assistant turns of a demonstration that are scored where the row does not say it.
    Raises:
      RowFault: a special token is written out in it, or the template does not take it as it is.
    """
    (_, prompt), *named = named_texts(record)
    if isinstance(record, Ranking):
        named = [(f"response {place + 1}", text) for place, (_, text) in enumerate(named)]
    if isinstance(prompt, str):
        for field, text in (("prompt", prompt), *named):
            assert isinstance(text, str)
            check_special(encoder, text, field)
        texts = RenderedTexts(prompt, tuple((ResponsePiece(str(text), True, False),) for _, text in named))
    else:
        if turns == "all" and isinstance(record, Demonstration):
            prompt = _all_trained(prompt)
        responses = [(field, text) for field, text in named if not isinstance(text, str)]
        texts = render(tokenizer, encoder, prompt, responses)
    return RenderedRow(
        where=where,
        texts=texts,
        templated=not isinstance(prompt, str),
        fields=tuple(field for field, _ in named),
        examples=split_record(record, kind),
        kind=kind,
        tie=isinstance(record, Preference) and record.tie,
        ranked=isinstance(record, Ranking),
    )


def _all_trained(prompt: Sequence[Message]) -> Conversation:
    """A prompt whose assistant turns are all trained on, except those that say no."""
    turns = [replace(turn, train=True) if turn.role == "assistant" and turn.train is None else turn for turn in prompt]
    return Conversation(turns, tools_of(prompt), template_options_of(prompt))


def make_examples(
    batch: list[RenderedRow],
    encoder: Encoder,
    budgets: Budgets,
    truncation: Truncation,
    tally: Tally,
) -> Iterator[NewExample]:
    """Encode some rows at once, then fit each into the budgets."""
    prompts = encoder.first([row.texts.earlier[0].text if row.texts.earlier else row.texts.prompt for row in batch])
    whole = [pieces for row in batch for pieces in (row.texts.earlier[1:], *row.texts.responses)]
    piece_ids = iter(encoder.later([piece.text for pieces in whole for piece in pieces]))
    for row, ids in zip(batch, prompts, strict=True):
        later = [next(piece_ids) for _ in row.texts.earlier[1:]]
        encoded = [[next(piece_ids) for _ in pieces] for pieces in row.texts.responses]
        try:
            prompt = _prompt(row, [ids, *later], encoder)
            responses = [_response(row, place, ids, encoder) for place, ids in enumerate(encoded)]
            yield from _fitted(row, prompt, responses, encoder, budgets, truncation, tally)
        except RowFault as fault:
            tally.reject(row.where, fault)
        else:
            if encoder.unknown is not None and any(encoder.unknown in text.ids for text in (prompt, *responses)):
                tally.note("unknown_token", row.where)


@dataclass(frozen=True, eq=False, slots=True)
class _Encoded:
    """Ids and the places [start, stop) that are scored."""

    ids: Ids
    spans: tuple[tuple[int, int], ...]


def _prompt(row: RenderedRow, pieces: list[Ids], encoder: Encoder) -> _Encoded:
    if row.templated:
        ids = np.concatenate(pieces)
        encoded = _Encoded(ids, _scored(pieces, row.texts.earlier) if row.texts.earlier else ())
        encoded = encoded if row.texts.trained is None else _Encoded(*row.texts.trained)
        if not len(encoded.ids):
            raise RowFault("bad_messages", "prompt", "the chat template renders nothing for 'prompt'")
        return encoded
    head = encoder.start if len(pieces[0]) else encoder.empty
    return _Encoded(np.concatenate([np.array(head, np.int32), *pieces]), ())


def _response(row: RenderedRow, place: int, pieces: list[Ids], encoder: Encoder) -> _Encoded:
    """The pieces of a response joined; one EOS where the last does not close its turn."""
    texts = row.texts.responses[place]
    if not any(len(ids) for ids in pieces):
        field = row.fields[place]
        raise RowFault("empty_response", field, f"'{field}' has no tokens; drop the row")
    if not texts[-1].closed:
        pieces = [*pieces[:-1], np.append(pieces[-1], np.int32(encoder.eos))]
    return _Encoded(np.concatenate(pieces), _scored(pieces, texts))


def _scored(pieces: Sequence[Ids], texts: Sequence[ResponsePiece]) -> tuple[tuple[int, int], ...]:
    """Places [start, stop) of the scored pieces in their join."""
    ends = np.cumsum([len(ids) for ids in pieces]).tolist()
    each = zip(ends, pieces, texts, strict=True)
    return tuple((end - len(ids), end) for end, ids, text in each if text.scored and len(ids))


def _fitted(
    row: RenderedRow,
    prompt: _Encoded,
    responses: list[_Encoded],
    encoder: Encoder,
    budgets: Budgets,
    truncation: Truncation,
    tally: Tally,
) -> list[NewExample]:
    """The examples of one row.

    Raises:
      RowFault: nothing of it fits, or the two responses of a pair are equal as tokens.
    """
    width = len(encoder.empty)
    start = width if tuple(prompt.ids[:width].tolist()) == encoder.empty else 0
    sizes = [len(response.ids) for response in responses]
    kept = fit(len(prompt.ids), sizes, start=start, budgets=budgets, truncation=truncation)
    cut = [_cut(response, size) for response, size in zip(responses, kept.kept, strict=True)]
    digest = NO_PROMPT
    if tuple(prompt.ids.tolist()) != encoder.empty:
        digest = int.from_bytes(blake2b(prompt.ids.tobytes(), digest_size=8).digest(), "big", signed=True)
    shown = _cut_prompt(prompt, start, kept)
    examples, faults, used = [], [], set()
    for places, record in row.examples:
        if len(places) > 2:
            examples.append(_list_of(row, record, shown, cut, digest, tally))
            used.update(places)
            continue
        fitting = [response for place in places if (response := cut[place]) is not None]
        if len(fitting) < len(places):
            place = next(place for place in places if cut[place] is None)
            faults.append(too_long(row.fields[place], len(prompt.ids), sizes[place], budgets))
        elif len(fitting) == 2 and not row.tie and np.array_equal(fitting[0].ids, fitting[1].ids):
            first, second = (row.fields[place] for place in places)
            message = f"'{first}' and '{second}' are equal as tokens; drop the row, or cut less"
            faults.append(RowFault("same_responses", second, message))
        else:
            used.update(places)
            examples.append(_example(row, record, shown, fitting, digest))
    if faults and not (row.ranked and examples):
        raise faults[0]
    for _ in faults:
        tally.note("dropped_pair", row.where)
    if kept.cut_prompt:
        tally.note("trimmed_prompt", row.where)
    for place in used:
        if kept.kept[place] < sizes[place]:
            tally.note("trimmed_response", row.where)
    return examples


def _list_of(
    row: RenderedRow, record: Record, prompt: _Encoded, responses: list[_Encoded | None], digest: int, tally: Tally
) -> NewExample:
    """A ranking as one example, less the responses that do not fit or that repeat a better one.

    Raises:
      RowFault: fewer than two are left.
    """
    seen: set[bytes] = set()
    places = []
    for place, response in enumerate(responses):
        if response is None or response.ids.tobytes() in seen:
            tally.note("dropped_response", row.where)
            continue
        seen.add(response.ids.tobytes())
        places.append(place)
    if len(places) < 2:
        message = "fewer than two responses of the ranking fit and differ; raise max_length, or choose another policy"
        raise RowFault("too_long", "responses", message)
    kept = [response for place in places if (response := responses[place]) is not None]
    example = _example(row, record, prompt, kept, digest)
    return replace(example, figures=select_responses(example.figures, places))


def _example(row: RenderedRow, record: Record, prompt: _Encoded, responses: list[_Encoded], digest: int) -> NewExample:
    figures = {} if isinstance(record, Demonstration) else record.figures
    return NewExample(
        prompt=prompt.ids,
        responses=tuple(response.ids for response in responses),
        scored=tuple(_spans(prompt, response) for response in responses),
        prompt_digest=digest,
        provenance=row.where,
        weight=record.weight,
        tie=row.tie,
        desirable=record.desirable if isinstance(record, Label) else None,
        figures={name: values for name, values in figures.items() if row.kind in FIGURES[name].kinds},
    )


def _cut(response: _Encoded, size: int) -> _Encoded | None:
    """The first `size` tokens, without unscored ones at the end; None where nothing scored is left."""
    spans = tuple((start, min(stop, size)) for start, stop in response.spans if start < size)
    return _Encoded(response.ids[: spans[-1][1]], spans) if spans else None


def _cut_prompt(prompt: _Encoded, start: int, kept: Fit) -> _Encoded:
    if not kept.cut_prompt:
        return prompt
    ids = np.concatenate([prompt.ids[:start], prompt.ids[start + kept.cut_prompt :]])
    first = max(start, 1)  # nothing predicts the first token
    moved = [(max(a - kept.cut_prompt, first), b - kept.cut_prompt) for a, b in prompt.spans]
    return _Encoded(ids, tuple((a, b) for a, b in moved if a < b))


def _spans(prompt: _Encoded, response: _Encoded) -> tuple[tuple[int, int], ...]:
    offset = len(prompt.ids)
    return (*prompt.spans, *((start + offset, stop + offset) for start, stop in response.spans))

"""Examples of one row: from its texts to token ids that fit the budgets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.data.rows.conversion import split_record
from preftree.data.rows.faults import RowFault, Tally
from preftree.data.rows.texts import named_texts
from preftree.data.store.example import NO_PROMPT
from preftree.data.store.writer import NewExample
from preftree.data.tokens.budgets import Budgets, Fit, Truncation, fit, too_long
from preftree.data.tokens.encoder import Encoder, Ids
from preftree.data.tokens.template import RenderedTexts, ResponsePiece, check_special, render
from preftree.records import (
    FIGURES,
    Demonstration,
    Kind,
    Label,
    Preference,
    Provenance,
    Ranking,
    Record,
    select_responses,
)


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """One row ready to encode.

    Attributes:
      where: Origin of the row.
      texts: Its texts in the form that is encoded.
      templated: Whether the chat template rendered them.
      fields: Names of its responses, for errors.
      examples: Its examples: indices of their responses, and a record of the requested kind.
      kind: The requested kind.
      tie: Whether the row is a tie; copied to its examples of any kind.
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
) -> RenderedRow:
    """A record as texts to encode: plain text unchanged, a conversation rendered by the chat template.

    Args:
      where: Origin of the row.
      record: The record of the row.
      tokenizer: Tokenizer with the chat template.
      encoder: Encoder of the tokenizer.
      kind: Kind of the examples: `pair` splits a ranking into pairs, `response` a pair into two examples.
    Raises:
      RowFault: a special token is written out in it, or the template refuses or alters it.
    """
    (_, prompt), *named = named_texts(record)
    if isinstance(record, Ranking):
        named = [(f"response {index + 1}", text) for index, (_, text) in enumerate(named)]
    if isinstance(prompt, str):
        for field, text in (("prompt", prompt), *named):
            assert isinstance(text, str)
            check_special(encoder.special, text, field)
        texts = RenderedTexts(prompt, tuple((ResponsePiece(str(text), True, False),) for _, text in named))
    else:
        turns = [(field, text) for field, text in named if not isinstance(text, str)]
        texts = render(tokenizer, encoder, prompt, turns)
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


def make_examples(
    batch: list[RenderedRow],
    encoder: Encoder,
    budgets: Budgets,
    truncation: Truncation,
    tally: Tally,
) -> Iterator[NewExample]:
    """Encode rows together, then fit each into the budgets."""
    prompts = encoder.first([row.texts.prompt for row in batch])
    texts = [piece.text for row in batch for pieces in row.texts.responses for piece in pieces]
    piece_ids = iter(encoder.later(texts))
    for row, ids in zip(batch, prompts, strict=True):
        encoded = [[next(piece_ids) for _ in pieces] for pieces in row.texts.responses]
        try:
            prompt = _prompt(row, ids, encoder)
            responses = [_response(row, index, ids, encoder) for index, ids in enumerate(encoded)]
            yield from _fitted(row, prompt, responses, encoder, budgets, truncation, tally)
        except RowFault as fault:
            tally.reject(row.where, fault)
        else:
            if encoder.unknown is not None and any(encoder.unknown in text.ids for text in (prompt, *responses)):
                tally.note("unknown_token", row.where)


@dataclass(frozen=True, eq=False, slots=True)
class _Encoded:
    """Token ids and the scored ranges [start, stop)."""

    ids: Ids
    spans: tuple[tuple[int, int], ...]


def _prompt(row: RenderedRow, ids: Ids, encoder: Encoder) -> _Encoded:
    if row.templated:
        encoded = _Encoded(ids, ()) if row.texts.trained is None else _Encoded(*row.texts.trained)
        if not len(encoded.ids):
            raise RowFault("bad_messages", "prompt", "the chat template renders nothing for 'prompt'")
        return encoded
    head = encoder.start if len(ids) else encoder.empty
    return _Encoded(np.concatenate([np.array(head, np.int32), ids]), ())


def _response(row: RenderedRow, index: int, pieces: list[Ids], encoder: Encoder) -> _Encoded:
    """The joined pieces of a response, with one EOS if the last piece does not close its turn."""
    texts = row.texts.responses[index]
    if not any(len(ids) for ids in pieces):
        field = row.fields[index]
        raise RowFault("empty_response", field, f"'{field}' has no tokens; drop the row")
    if not texts[-1].closed:
        pieces = [*pieces[:-1], np.append(pieces[-1], np.int32(encoder.eos))]
    ends = np.cumsum([len(ids) for ids in pieces]).tolist()
    spans = [
        (end - len(ids), end) for end, ids, text in zip(ends, pieces, texts, strict=True) if text.scored and len(ids)
    ]
    return _Encoded(np.concatenate(pieces), tuple(spans))


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
      RowFault: no example fits, or the two responses of a pair are equal as tokens.
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
    for indices, record in row.examples:
        if len(indices) > 2:
            examples.append(_list_of(row, record, shown, cut, digest, tally))
            used.update(indices)
            continue
        fitting = [response for index in indices if (response := cut[index]) is not None]
        if len(fitting) < len(indices):
            index = next(index for index in indices if cut[index] is None)
            faults.append(too_long(row.fields[index], len(prompt.ids), sizes[index], budgets))
        elif len(fitting) == 2 and not row.tie and np.array_equal(fitting[0].ids, fitting[1].ids):
            first, second = (row.fields[index] for index in indices)
            message = f"'{first}' and '{second}' are equal as tokens; drop the row, or trim less"
            faults.append(RowFault("same_responses", second, message))
        else:
            used.update(indices)
            examples.append(_example(row, record, shown, fitting, digest))
    if faults and not (row.ranked and examples):
        raise faults[0]
    for _ in faults:
        tally.note("dropped_pair", row.where)
    if kept.cut_prompt:
        tally.note("trimmed_prompt", row.where)
    for index in used:
        if kept.kept[index] < sizes[index]:
            tally.note("trimmed_response", row.where)
    return examples


def _list_of(
    row: RenderedRow, record: Record, prompt: _Encoded, responses: list[_Encoded | None], digest: int, tally: Tally
) -> NewExample:
    """A ranking as one example, without responses that do not fit or that repeat a better one.

    Raises:
      RowFault: fewer than two responses remain.
    """
    seen: set[bytes] = set()
    indices = []
    for index, response in enumerate(responses):
        if response is None or response.ids.tobytes() in seen:
            tally.note("dropped_response", row.where)
            continue
        seen.add(response.ids.tobytes())
        indices.append(index)
    if len(indices) < 2:
        message = "fewer than two responses of the ranking fit and differ; raise max_length, or choose another policy"
        raise RowFault("too_long", "responses", message)
    kept = [response for index in indices if (response := responses[index]) is not None]
    example = _example(row, record, prompt, kept, digest)
    return replace(example, figures=select_responses(example.figures, indices))


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
    """The first `size` tokens, without unscored ones at the end; None where no scored token remains."""
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

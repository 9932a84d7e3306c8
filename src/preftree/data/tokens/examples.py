"""One row, from its texts to examples of token ids that fit the budgets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.data.records.conversion import pair_of
from preftree.data.records.duplicates import ordered_pairs
from preftree.data.records.faults import RowFault, Tally
from preftree.data.store.store import NO_PROMPT, Says
from preftree.data.store.writer import NewExample
from preftree.data.tokens.budgets import Budgets, Fit, Truncation, fit, too_long
from preftree.data.tokens.encode import Encoder, Ids
from preftree.data.tokens.template import Part, Rendered, check_special, render
from preftree.data.tools.lengths import parts
from preftree.records import Kind, Label, Preference, Provenance, Ranking, Record


@dataclass(frozen=True, slots=True)
class Unit:
    """One example to be: places among the responses of its job, and what is said of them."""

    places: tuple[int, ...]
    says: Says


@dataclass(frozen=True, slots=True)
class Job:
    """One row on its way: what is encoded, and which examples it makes."""

    where: Provenance
    rendered: Rendered
    templated: bool
    fields: tuple[str, ...]
    units: tuple[Unit, ...]
    ranked: bool


def make_job(
    where: Provenance,
    record: Record,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    kind: Kind = "pair",
) -> Job:
    """A record as texts to encode: plain text as it stands, a conversation through the chat template.

    Args:
      where: Where it stood.
      record: What the row says.
      tokenizer: Renders conversations.
      encoder: Finds special tokens.
      kind: What the examples are to be: `pair` makes pairs of a ranking, `response` two examples of a pair.
    Raises:
      RowFault: a special token is written out in it, or the template does not take it as it is.
    """
    (_, prompt), *named = parts(record)
    if isinstance(record, Ranking):
        named = [(f"response {place + 1}", text) for place, (_, text) in enumerate(named)]
    units = _units(record, kind)
    if isinstance(prompt, str):
        for field, text in (("prompt", prompt), *named):
            assert isinstance(text, str)
            check_special(encoder.special, text, field)
        rendered = Rendered(prompt, tuple((Part(str(text), True, False),) for _, text in named))
    else:
        turns = [(field, text) for field, text in named if not isinstance(text, str)]
        rendered = render(tokenizer, encoder, prompt, turns)
    fields = tuple(field for field, _ in named)
    return Job(where, rendered, not isinstance(prompt, str), fields, units, isinstance(record, Ranking))


def _units(record: Record, kind: Kind) -> tuple[Unit, ...]:
    if isinstance(record, Ranking) and kind == "list":
        return (Unit(tuple(range(len(record.responses))), Says(record.weight, scores=record.scores)),)
    if isinstance(record, Ranking):
        return tuple(Unit((i, j), _of_pair(pair_of(record, i, j))) for i, j in ordered_pairs(record))
    if isinstance(record, Preference) and kind == "response":  # the two of a tie are left out later, and counted
        return tuple(Unit((i,), Says(record.weight, tie=record.tie, desirable=i == 0)) for i in (0, 1))
    if isinstance(record, Preference) and kind == "list":  # a tie is left out later, as above
        return (Unit((0, 1), Says(record.weight, tie=record.tie, scores=record.scores)),)
    if isinstance(record, Preference):
        return (Unit((0, 1), _of_pair(record)),)
    return (Unit((0,), Says(record.weight, desirable=record.desirable if isinstance(record, Label) else None)),)


def _of_pair(pair: Preference) -> Says:
    return Says(pair.weight, pair.margin, pair.tie, pair.win_prob, pair.costs, other_margin=pair.other_margin)


def make_examples(
    batch: list[Job],
    encoder: Encoder,
    budgets: Budgets,
    truncation: Truncation,
    tally: Tally,
) -> Iterator[NewExample]:
    """Encode some rows at once, then fit each into the budgets."""
    prompts = encoder.first([job.rendered.prompt for job in batch])
    pieces = iter(encoder.later([part.text for job in batch for parts in job.rendered.responses for part in parts]))
    for job, ids in zip(batch, prompts, strict=True):
        encoded = [[next(pieces) for _ in parts] for parts in job.rendered.responses]
        try:
            prompt = _prompt(job, ids, encoder)
            responses = [_response(job, place, ids, encoder) for place, ids in enumerate(encoded)]
            yield from _fitted(job, prompt, responses, encoder, budgets, truncation, tally)
        except RowFault as fault:
            tally.reject(job.where, fault)
        else:
            texts = [prompt, *responses]
            if encoder.unknown is not None and any(encoder.unknown in text.ids for text in texts):
                tally.note("unknown_token", job.where)


@dataclass(frozen=True, eq=False, slots=True)
class _Encoded:
    """Ids and the places [start, stop) that are scored."""

    ids: Ids
    spans: tuple[tuple[int, int], ...]


def _prompt(job: Job, ids: Ids, encoder: Encoder) -> _Encoded:
    if job.templated:
        encoded = _Encoded(ids, ()) if job.rendered.trained is None else _Encoded(*job.rendered.trained)
        if not len(encoded.ids):
            raise RowFault("bad_messages", "prompt", "the chat template renders nothing for 'prompt'")
        return encoded
    head = encoder.start if len(ids) else encoder.empty
    return _Encoded(np.concatenate([np.array(head, np.int32), ids]), ())


def _response(job: Job, place: int, pieces: list[Ids], encoder: Encoder) -> _Encoded:
    """The pieces of a response joined; one EOS where the last does not close its turn."""
    texts = job.rendered.responses[place]
    if not any(len(ids) for ids in pieces):
        field = job.fields[place]
        raise RowFault("empty_response", field, f"'{field}' has no tokens; drop the row")
    if not texts[-1].closed:
        pieces = [*pieces[:-1], np.append(pieces[-1], np.int32(encoder.eos))]
    ends = np.cumsum([len(ids) for ids in pieces]).tolist()
    spans = [
        (end - len(ids), end) for end, ids, text in zip(ends, pieces, texts, strict=True) if text.scored and len(ids)
    ]
    return _Encoded(np.concatenate(pieces), tuple(spans))


def _fitted(
    job: Job,
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
    for unit in job.units:
        if len(unit.places) > 2:
            examples.append(_list_of(job, unit, shown, cut, digest, tally))
            used.update(unit.places)
            continue
        chosen = [response for place in unit.places if (response := cut[place]) is not None]
        if len(chosen) < len(unit.places):
            place = next(place for place in unit.places if cut[place] is None)
            faults.append(too_long(job.fields[place], len(prompt.ids), sizes[place], budgets))
        elif len(chosen) == 2 and not unit.says.tie and np.array_equal(chosen[0].ids, chosen[1].ids):
            first, second = (job.fields[place] for place in unit.places)
            message = f"'{first}' and '{second}' are equal as tokens; drop the row, or cut less"
            faults.append(RowFault("same_responses", second, message))
        else:
            used.update(unit.places)
            examples.append(_example(job, unit, shown, chosen, digest))
    if faults and not (job.ranked and examples):
        raise faults[0]
    for _ in faults:
        tally.note("dropped_pair", job.where)
    if kept.cut_prompt:
        tally.note("trimmed_prompt", job.where)
    for place in used:
        if kept.kept[place] < sizes[place]:
            tally.note("trimmed_response", job.where)
    return examples


def _list_of(
    job: Job, unit: Unit, prompt: _Encoded, responses: list[_Encoded | None], digest: int, tally: Tally
) -> NewExample:
    """A ranking as one example, less the responses that do not fit or that repeat a better one.

    Raises:
      RowFault: fewer than two are left.
    """
    seen: set[bytes] = set()
    places = []
    for place in unit.places:
        response = responses[place]
        if response is None or response.ids.tobytes() in seen:
            tally.note("dropped_response", job.where)
            continue
        seen.add(response.ids.tobytes())
        places.append(place)
    if len(places) < 2:
        message = "fewer than two responses of the ranking fit and differ; raise max_length, or choose another policy"
        raise RowFault("too_long", "responses", message)
    scores = unit.says.scores and tuple(unit.says.scores[place] for place in places)
    kept = [response for place in places if (response := responses[place]) is not None]
    return _example(job, Unit(tuple(places), replace(unit.says, scores=scores)), prompt, kept, digest)


def _example(job: Job, unit: Unit, prompt: _Encoded, responses: list[_Encoded], digest: int) -> NewExample:
    return NewExample(
        prompt=prompt.ids,
        responses=tuple(response.ids for response in responses),
        scored=tuple(_spans(prompt, response) for response in responses),
        prompt_digest=digest,
        says=unit.says,
        provenance=job.where,
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

"""Rows of a data file as a model's tokenizer and chat template make them: lengths, marks, and the first as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.data.rows.faults import RowFault, Tally
from preftree.data.rows.texts import spread
from preftree.data.store.example import join
from preftree.data.tokens.budgets import UNLIMITED
from preftree.data.tokens.encoder import Encoder, make_encoder
from preftree.data.tokens.row_examples import RenderedRow, Turns, make_examples, render_row
from preftree.data.tokens.template import ResponsePiece, check_template, render
from preftree.data.tokens.written_out import check_special
from preftree.records import Demonstration, Kind, Label, Preference, Provenance, Record, Text
from preftree.tree.layout import Sharing, TokenSequence
from preftree.tree.pack import plan_step

_BATCH = 256
_SHOWN = 3
_LAID_OUT = 1024


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row as the model sees it.

    Attributes:
      where: Its place.
      prompt: Pieces of the prompt, the scored ones among them where earlier turns are trained on.
      responses: Name and pieces of each response; an EOS that is put at the end is one.
    """

    where: Provenance
    prompt: tuple[ResponsePiece, ...]
    responses: tuple[tuple[str, tuple[ResponsePiece, ...]], ...]

    def as_json(self) -> dict[str, Any]:
        """The prompt, and of each response the text that is scored."""
        scored = ["".join(piece.text for piece in pieces if piece.scored) for _, pieces in self.responses]
        return {"prompt": "".join(piece.text for piece in self.prompt), "responses": scored}


@dataclass(slots=True)
class TokenView:
    """The token side of an inspection; rows come one after the other, and `finish` takes the last ones.

    Attributes:
      tokenizer: The model's.
      path: The file, for errors.
      max_lengths: Limits to try.
      turns: Assistant turns of a demonstration that are scored.
      lengths: Tokens of `prompt` and `response`, as length -> how often.
      over: For each limit the rows whose prompt and longest response are longer: dropped, or cut.
      prompt_over: For each limit the rows whose prompt alone leaves no room for a response.
      marks: Special tokens, and tokens that the template writes, as they occur in the encoded rows.
      rendered: The first rows.
      sharing: Tokens computed and tokens of every response with its own prompt, over the first rows, in steps of
        `step_rows` shuffled rows; None where there are no responses.
    """

    tokenizer: PreTrainedTokenizerBase
    path: str
    max_lengths: Sequence[int] = ()
    turns: Turns = "last"
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    over: Counter[int] = field(default_factory=Counter)
    prompt_over: Counter[int] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    rendered: list[ShownRow] = field(default_factory=list)
    step_rows: ClassVar[int] = 64
    sharing: tuple[int, int] | None = None
    _first: list[tuple[bytes, list[TokenSequence]]] = field(default_factory=list, init=False)
    _rows: list[RenderedRow] = field(default_factory=list, init=False)
    _encoder: Encoder = field(init=False)

    def __post_init__(self) -> None:
        self._encoder = make_encoder(self.tokenizer)

    def add(self, where: Provenance, record: Record, tally: Tally) -> None:
        """Take a row; one that the tokenizer or the template refuses goes to the tally.

        Raises:
          DataError: it is a conversation, and there is no template.
        """
        if not isinstance(record.prompt, str):
            check_template(self.tokenizer, self.path)
        try:
            row = render_row(where, record, self.tokenizer, self._encoder, _kind_of(record), self.turns)
        except RowFault as fault:
            tally.reject(where, fault)
            return
        self._rows.append(row)
        if len(self.rendered) < _SHOWN:
            self.rendered.append(self._shown(row))
        if len(self._rows) >= _BATCH:
            self.finish(tally)

    def add_prompt(self, where: Provenance, prompt: Text) -> None:
        """Take a prompt without responses.

        Raises:
          RowFault: the tokenizer or the template refuses it.
          DataError: it is a conversation, and there is no template.
        """
        if isinstance(prompt, str):
            check_special(self._encoder, prompt, "prompt")
            text, start = prompt, self._encoder.start
        else:
            check_template(self.tokenizer, self.path)
            text, start = render(self.tokenizer, self._encoder, prompt, ()).prompt, ()
        ids = np.array([*start, *self._encoder.first([text])[0]], np.int32)
        self._count(ids, ())
        if len(self.rendered) < _SHOWN:
            self.rendered.append(ShownRow(where, (ResponsePiece(text, False, True),), ()))

    def finish(self, tally: Tally) -> None:
        """Encode the rows that wait."""
        rows, self._rows = self._rows, []
        for example in make_examples(rows, self._encoder, UNLIMITED, "drop", tally):
            self._count(example.prompt, example.responses)
            if len(self._first) < _LAID_OUT and len(example.prompt):
                rows_of = [
                    join(example.prompt, r, [(len(example.prompt), len(example.prompt) + len(r))])
                    for r in example.responses
                ]
                self._first.append((example.prompt.tobytes(), rows_of))

    def measure_sharing(self) -> None:
        """Lay out the first rows as a run would, after the last row."""
        computed = alone = 0
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(self._first))
        for start in range(0, len(order), self.step_rows):
            names, groups = zip(*(self._first[index] for index in order[start : start + self.step_rows]), strict=True)
            longest = max(sum(len(sequence.ids) for sequence in group) for group in groups)
            numbers = [names.index(name) for name in names]
            (plan,) = plan_step(groups, numbers, budget=max(8192, longest), sharing=Sharing())
            computed += sum(len(micro.batch.input_T) for micro in plan)
            alone += sum(len(sequence.ids) - 1 for group in groups for sequence in group)
        self.sharing = (computed, alone) if alone else None

    def as_json(self) -> dict[str, Any]:
        """The machine-readable form."""
        limits = {
            str(limit): {"over": self.over[limit], "prompt_over": self.prompt_over[limit]} for limit in self.max_lengths
        }
        return {
            "tokens": {part: spread(counts) for part, counts in self.lengths.items()},
            "max_length": limits,
            "special_tokens": dict(self.marks.most_common()),
            "share_of_tokens_computed": self.sharing and self.sharing[0] / self.sharing[1],
            "rendered": [row.as_json() for row in self.rendered],
        }

    def _count(self, prompt: np.ndarray, responses: Sequence[np.ndarray]) -> None:
        self.lengths.setdefault("prompt", Counter())[len(prompt)] += 1
        if responses:
            self.lengths.setdefault("response", Counter()).update(map(len, responses))
        longest = max(map(len, responses), default=0)
        for limit in self.max_lengths:
            self.over[limit] += len(prompt) + longest > limit
            self.prompt_over[limit] += len(prompt) >= limit
        marks = {**self._encoder.facts().written, **self._encoder.special_ids}
        for number, count in zip(*np.unique(np.concatenate([prompt, *responses]), return_counts=True), strict=True):
            if int(number) in marks:
                self.marks[marks[int(number)]] += int(count)

    def _shown(self, row: RenderedRow) -> ShownRow:
        end = ResponsePiece(str(self.tokenizer.eos_token), True, True)
        responses = tuple(pieces if pieces[-1].closed else (*pieces, end) for pieces in row.texts.responses)
        prompt = row.texts.earlier or (ResponsePiece(row.texts.prompt, False, True),)
        return ShownRow(row.where, prompt, tuple(zip(row.fields, responses, strict=True)))


def _kind_of(record: Record) -> Kind:
    if isinstance(record, Demonstration):
        return "demonstration"
    if isinstance(record, Label):
        return "response"
    return "pair" if isinstance(record, Preference) else "list"

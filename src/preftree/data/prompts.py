"""Prompts without responses: read from any data file, rendered and encoded as in training."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from preftree.data.formats.prompts_alone import prompt_of
from preftree.data.rows.conversion import as_kind, check_kind
from preftree.data.rows.faults import RowFault, Tally, check_share
from preftree.data.sources.reader import find_format, find_source, read_records, read_rows
from preftree.data.tokens.encoder import make_encoder
from preftree.data.tokens.template import check_template, render
from preftree.data.tokens.written_out import check_special
from preftree.errors import DataError
from preftree.records import Demonstration, Message, Provenance, Text, template_options_of, tools_of

log = logging.getLogger("preftree")

MAX_REJECTED = 0.05
"""Share of rows with faults that a file of demonstrations may have."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and the row it came from."""

    where: Provenance
    text: Text


def read_prompts(path: str) -> list[Prompt]:
    """The prompts of a file, in order: one a line of a .txt file, else each row's `prompt`.

    A row's prompt is text or a list of messages, with `system`, `tools` and `chat_template_kwargs` beside it; rows of a
    format that names it otherwise (HH transcripts, SHP's `history`) are read as that format. Nothing is left out: a row
    without a prompt is an error.

    Raises:
      DataError: a file cannot be read, or a row has no prompt; the row is named.
    """
    if path.endswith(".txt"):
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        prompts = [Prompt(Provenance(path, number), line) for number, line in enumerate(lines, 1) if line.strip()]
    else:
        prompts = _from_rows(path)
    if not prompts:
        raise DataError(f"{path} holds no prompts")
    return prompts


def _from_rows(path: str) -> list[Prompt]:
    source = find_source(path)
    form = None
    prompts = []
    for raw in read_rows(source):
        try:
            if isinstance(raw.row, RowFault):
                raise raw.row
            if raw.row.get("prompt") is not None:
                prompts.append(Prompt(raw.where, prompt_of(raw.row)))
                continue
            form = form or find_format(source)
            prompts.append(Prompt(raw.where, form.read(raw.row).prompt))
        except RowFault as fault:
            raise DataError(f"{raw.where}: {fault}; fix the row") from fault
    return prompts


def prompts_in_memory(prompts: Sequence[str | Sequence[Mapping[str, Any]] | Mapping[str, Any]]) -> list[Prompt]:
    """Prompts that are texts, conversations, or rows as a file has them.

    Raises:
      DataError: one is none of these; it is named by its number, from 1.
    """
    read = []
    for number, given in enumerate(prompts, 1):
        row = dict(given) if isinstance(given, Mapping) else {"prompt": given}
        if isinstance(row.get("prompt"), Sequence) and not isinstance(row["prompt"], str):
            row["prompt"] = [dict(turn) if isinstance(turn, Mapping) else turn for turn in row["prompt"]]
        try:
            read.append(Prompt(Provenance("prompts", number), prompt_of(row)))
        except RowFault as fault:
            raise DataError(f"prompts:{number}: {fault}; correct it") from fault
    return read


def prompt_key(prompt: Text) -> str:
    """A key that is equal for prompts that ask the same, as text or as the only turn of a conversation."""
    if isinstance(prompt, str):
        return prompt
    beside = [dict(more) for more in (*tools_of(prompt), template_options_of(prompt)) if more]
    if len(prompt) == 1 and not prompt[0].rest and not beside:
        return prompt[0].content
    turns = [[turn.role, turn.content, *([turn.rest] if turn.rest else [])] for turn in prompt]
    return json.dumps([*turns, *beside], ensure_ascii=False)


def read_demonstrations(path: str) -> list[tuple[Provenance, Demonstration]]:
    """The answers in a data file: the chosen response of a pair, the best of a ranking, a demonstration's response.

    Raises:
      DataError: the file cannot be read, has no such answers, or too many faults.
    """
    source = find_source(path)
    form = find_format(source)
    paired = form.kind in ("pair", "list")
    check_kind(path, form, "demonstration", chosen_side=paired)
    tally = Tally()
    demonstrations = []
    for where, record in read_records(source, form, tally):
        for demonstration in as_kind(record, "demonstration", chosen_side=paired):
            assert isinstance(demonstration, Demonstration)
            demonstrations.append((where, demonstration))
    check_share(path, tally.rows, tally.faults, tally.rejected, MAX_REJECTED)
    if tally.num_rejected:
        log.warning("%s: %d rows have faults and are left out (first: %s)", path, tally.num_rejected, tally.rejected[0])
    return demonstrations


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of prompts, as a model sees them in training when it is asked to answer.

    Raises:
      DataError: the template refuses a conversation, or a special token is written out in a prompt.
      ModelError: the tokenizer has no EOS.
    """
    encoder = make_encoder(tokenizer)
    whole: list[str] = []
    for prompt in prompts:
        try:
            if isinstance(prompt.text, str):
                check_special(encoder, prompt.text, "prompt")
                whole.append(prompt.text)
            else:
                check_template(tokenizer, prompt.where.file)
                whole.append(render(tokenizer, encoder, prompt.text, ()).prompt)
        except RowFault as fault:
            raise DataError(f"{prompt.where}: {fault}; fix the row") from fault
    encoded = [ids.tolist() for ids in encoder.first(whole)]
    plain = [isinstance(prompt.text, str) for prompt in prompts]
    return [
        [*(encoder.start if ids else encoder.empty), *ids] if is_plain else ids
        for ids, is_plain in zip(encoded, plain, strict=True)
    ]


def prompts_digest(ids: Sequence[Sequence[int]]) -> str:
    """SHA-256 of the token ids of prompts and of their order, in hex."""
    digest = hashlib.sha256()
    for prompt in ids:
        digest.update(np.array([len(prompt), *prompt], np.int64).tobytes())
    return digest.hexdigest()


def as_conversation(prompts: Sequence[Prompt], system: str | None) -> list[Prompt]:
    """Plain prompts as user turns, after a system message where one is given; conversations stay as they are."""
    head = () if system is None else (Message("system", system),)
    return [
        Prompt(prompt.where, (*head, Message("user", prompt.text))) if isinstance(prompt.text, str) else prompt
        for prompt in prompts
    ]


@dataclass(frozen=True, eq=False, slots=True)
class PromptSet:
    """Prompts to answer.

    Attributes:
      prompts: As their file has them, [N].
      ids: Token ids of each, as the model sees it, [N].
      same: A number for each, equal where the ids are, [N].
    """

    prompts: Sequence[Prompt]
    ids: Sequence[Sequence[int]]
    same: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.ids)


def open_prompts(path: str, tokenizer: PreTrainedTokenizerBase) -> PromptSet:
    """The prompts of a file, tokenised.

    Raises:
      DataError: the file cannot be read, or a row has no prompt.
    """
    prompts = read_prompts(path)
    ids = encode_prompts(tokenizer, prompts)
    numbers: dict[tuple[int, ...], int] = {}
    same = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in ids]
    return PromptSet(prompts, ids, np.array(same, np.int64))

"""Split of plain texts into a prompt of a few tokens and a response."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.data.rows.conversion import to_row
from preftree.data.rows.faults import RowFault, Tally, check_share
from preftree.data.sources.reader import check_out, find_format, find_source, read_records
from preftree.data.tokens.encoder import Encoder, make_encoder
from preftree.data.tools.convert import some_of
from preftree.errors import ConfigError, DataError
from preftree.records import Demonstration
from preftree.storage.atomic import write_result


def cut_file(
    path: str,
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    fewest: int,
    most: int,
    seed: int = 0,
    num_rows: int | None = None,
    format_name: str | None = None,
    max_rejected_share: float = 0.05,
) -> tuple[Tally, int]:
    """Split every text of a source, and write prompts with their completions.

    The number of prompt tokens is drawn uniformly among the counts at which the prompt, encoded alone, has the first
    tokens of the text, so that a model reads the same tokens when sampling. A row's draw depends only on the seed
    and its number.

    Args:
      path: A source of plain text.
      out: A .jsonl file.
      tokenizer: Tokenizer of the counts.
      fewest, most: Range of the number of prompt tokens.
      seed: Seed of the draws, and of the choice of rows.
      num_rows: Most rows to write, chosen by seed, in their order; None writes all.
      format_name: Format of the rows; None detects it.
      max_rejected_share: Largest share of faulty rows; above it nothing is written.
    Returns:
      The tally of the rows read, and the number of rows written.
    Raises:
      ConfigError: fewest and most are not a valid range.
      DataError: the source cannot be read, is not plain text, holds too many faults, or `out` would overwrite it.
    """
    if not 1 <= fewest <= most:
        raise ConfigError(f"a prompt must have 1 token or more, and the most no fewer than the fewest: {fewest}-{most}")
    source = find_source(path)
    check_out(source, out)
    form = find_format(source, format_name)
    if form.name != "text":
        raise DataError(f"{path} holds {form.title} ({form.name}), wanted plain text; --format text reads `text` alone")
    encoder, tally, lines = make_encoder(tokenizer), Tally(), []
    for number, (where, record) in enumerate(read_records(source, form, tally)):
        assert isinstance(record, Demonstration) and isinstance(record.response, str)  # what the format reads
        try:
            prompt = cut(record.response, tokenizer, encoder, fewest, most, np.random.default_rng([seed, number]))
        except RowFault as fault:
            tally.reject(where, fault)
            continue
        row = to_row(Demonstration(prompt, record.response[len(prompt) :], record.weight))
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    check_share(path, tally.rows, tally.faults, tally.rejected, max_rejected_share)
    if num_rows is not None:
        lines = some_of(lines, num_rows, seed)
    write_result(out, "".join(lines), advice="make room, or give another OUT")
    return tally, len(lines)


def cut(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    fewest: int,
    most: int,
    rng: np.random.Generator,
) -> str:
    """The beginning of a text.

    Raises:
      RowFault: it cannot be split after `fewest` to `most` tokens.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    (ids,) = encoder.first([text])
    ends = [end for _, end in encoded["offset_mapping"][:most]]
    candidates = sorted({end for end in ends[fewest - 1 :] if end and text[end:].strip()})
    prompts = encoder.first([text[:end] for end in candidates]) if candidates else []
    fits = [
        end
        for end, prompt in zip(candidates, prompts, strict=True)
        if fewest <= len(prompt) <= most and prompt.tolist() == ids[: len(prompt)].tolist()
    ]
    if not fits:
        message = f"the text cannot be cut after {fewest} to {most} tokens; drop the row"
        raise RowFault("empty_response", "text", message)
    return text[: fits[int(rng.integers(len(fits)))]]

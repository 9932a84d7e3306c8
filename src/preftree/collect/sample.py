"""Responses of models for a project, drawn by our generator."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preftree.collect.fill import Filling
from preftree.collect.read import read_items
from preftree.collect.store import SqliteStore
from preftree.data.prompts import Prompt, encode_prompts
from preftree.errors import DataError
from preftree.generate.hf import Sampling, load_sampler
from preftree.models.load import load_tokenizer
from preftree.records import Provenance
from preftree.train.step_model import model_at


@dataclass(frozen=True, slots=True)
class SampledResponses:
    """What was sampled.

    Attributes:
      added: New responses.
      same: Responses that the project had already, word for word.
      empty: Responses that are empty, or hold bytes that are not text: nobody could compare them.
    """

    added: int
    same: int
    empty: int

    @property
    def left_out(self) -> str:
        """What was left out, in words."""
        return f"{self.same} were there already, {self.empty} are no text and are left out"


def add_samples(
    store: SqliteStore,
    name: str,
    sampling: Sampling,
    *,
    samples: int,
    first_row: int,
    batch_size: int,
    precision: Literal["fp32", "bf16"],
    progress: Callable[[int], None] = lambda done: None,
) -> SampledResponses:
    """Draw responses of one model to every prompt, and pair them with all that the prompt has.

    Args:
      store: The project.
      name: Model folder, run or hub id.
      sampling: How responses are drawn; each model has random numbers of its own.
      samples: Responses to each prompt.
      first_row: Number of the model among those of the command.
      batch_size: Responses at once.
      precision: Precision of the weights.
      progress: Called with the number of responses so far.
    Raises:
      DataError: the project has no prompts, or a prompt does not suit the model.
      ModelError: the model cannot be loaded.
    """
    items = read_items(store.reading)
    if not items:
        raise DataError(f"{store.path} has no prompts; make a project with --prompts")
    folder = model_at(name)
    tokenizer = load_tokenizer(folder)
    sampler, weights = load_sampler(folder, tokenizer, precision=precision, batch_size=batch_size)
    numbers = list(items)
    prompts = [Prompt(Provenance(str(store.path), number), items[number].prompt) for number in numbers]
    ids = encode_prompts(tokenizer, prompts)
    repeated = [(number, words) for number, words in zip(numbers, ids, strict=True) for _ in range(samples)]
    source = Path(name).name if Path(name).exists() else name
    texts: list[tuple[int, str]] = []
    for start in range(0, len(repeated), batch_size):
        block = repeated[start : start + batch_size]
        row = first_row * len(repeated) + start
        drawn = sampler([tokens for _, tokens in block], sampling, first_row=row)
        # The limit may cut a character in two, and its first bytes are not text.
        words = [one.text if one.finished else one.text.rstrip("\ufffd") for one in drawn]
        texts += [(number, text) for (number, _), text in zip(block, words, strict=True)]
        progress(len(texts))
    full = [(number, text) for number, text in texts if text.strip() and "\ufffd" not in text and "\0" not in text]

    def add(project: sqlite3.Connection) -> tuple[int, int]:
        filling = Filling.of(project)
        before = len(filling.texts)
        for number, text in full:
            filling.response(number, text, source, digest=weights, seed=sampling.seed)
        filling.pair_up()
        return len(filling.texts) - before, filling.same

    added, same = store.writer.submit(add).result()
    return SampledResponses(added, same, len(texts) - len(full))

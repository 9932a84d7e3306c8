"""A conversation with one model, or with two that answer the same; choices between them become preferences."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.data.prompts import Prompt, encode_prompts
from preftree.data.records.conversion import plain_text
from preftree.errors import DataError
from preftree.generate.hf import Sampling, generate, uniforms
from preftree.models.adapters import use_adapter
from preftree.records import Message, Provenance, Text


@dataclass(frozen=True, eq=False, slots=True)
class Speaker:
    """A model with its tokenizer.

    Attributes:
      name: As the user named it.
      model, tokenizer: What answers.
      adapter: Which of the model's adapters does, where it holds several.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: int | None = None

    @property
    def has_template(self) -> bool:
        """Whether it takes conversations; if not, it continues a text."""
        return bool(self.tokenizer.chat_template)


@dataclass(frozen=True, slots=True)
class Talk:
    """What was said so far.

    Attributes:
      templated: Whether turns go through a chat template; if not, each text stands for itself.
      system: System message.
      turns: What user and assistant said.
    """

    templated: bool
    system: str | None = None
    turns: tuple[Message, ...] = ()

    @property
    def number(self) -> int:
        """How often the user has spoken."""
        return sum(turn.role == "user" for turn in self.turns)

    @property
    def prompt(self) -> Text:
        """What the models are given."""
        if not self.templated:
            return self.turns[-1].content
        return (*(() if self.system is None else (Message("system", self.system),)), *self.turns)

    def ask(self, text: str) -> Talk:
        """The talk after the user has said something."""
        return replace(self, turns=(*self.turns, Message("user", text)))

    def hear(self, text: str) -> Talk:
        """The talk after the assistant has answered."""
        return replace(self, turns=(*self.turns, Message("assistant", text)))

    def undo(self) -> Talk:
        """The talk without its last question and answer."""
        return replace(self, turns=self.turns[:-2])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a speaker said."""

    speaker: str
    text: str


def answer(
    speaker: Speaker, talk: Talk, sampling: Sampling, *, row: int, show: Callable[[str], None] | None = None
) -> Answer:
    """The speaker's answer to the last thing that the user said.

    Args:
      speaker: Who answers.
      talk: It ends with the user's turn.
      sampling: How the answer is drawn.
      row: Chooses the random numbers, with the sampling's seed.
      show: Gets the text piece by piece.
    Raises:
      DataError: the template refuses the conversation, or a special token is written out in it.
    """
    ids = encode_prompts(speaker.tokenizer, [Prompt(Provenance("chat", talk.number), talk.prompt)])
    if speaker.adapter is not None:
        use_adapter(speaker.model, speaker.adapter)
    (one,) = generate(speaker.model, speaker.tokenizer, ids, sampling, first_row=row, show=show)
    # Where the limit cut a character in two, its first bytes are no text.
    return Answer(speaker.name, one.text if one.finished else one.text.rstrip("\ufffd"))


def shuffle_sides(answers: Sequence[Answer], *, seed: int, number: int) -> list[Answer]:
    """Two answers in an order that (seed, turn) decides: neither model has a side of its own."""
    turned = uniforms(seed, np.array([number]), 0)[0] < 0.5
    return list(reversed(answers)) if turned else list(answers)


def require_text(said: Answer) -> None:
    """Refuse an answer that no preference file may hold.

    Raises:
      DataError: it is empty, or holds bytes that are no text.
    """
    if not said.text.strip():
        raise DataError("an answer is empty, so there is nothing to choose; ask again")
    if "\ufffd" in said.text:
        raise DataError("an answer holds bytes that are no text (U+FFFD), so nothing was recorded; ask again")


def count_rows(path: Path) -> int:
    """Lines of a file; 0 where there is none."""
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def add_choice(path: Path, talk: Talk, better: Answer, other: Answer, *, tie: bool) -> None:
    """Append a choice to a preference file, with the names of the models; on the disk when this returns.

    Raises:
      DataError: the file cannot be written.
    """
    row: dict[str, Any] = {"prompt": plain_text(talk.prompt)}
    for side, said in (("chosen", better), ("rejected", other)):
        text: Text = (Message("assistant", said.text),) if talk.templated else said.text
        row |= {side: plain_text(text), f"{side}_model": said.speaker}
    if tie:
        row["tie"] = True
    try:
        with path.open("ab") as file:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); give another --record") from error

"""Chat with one model, or with two that answer the same question; choices between answers become preferences."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.data.prompts import Prompt, encode_prompts
from preftree.data.rows.conversion import plain_text
from preftree.errors import DataError
from preftree.generate.hf import Sampling, generate, uniforms
from preftree.models.adapters import use_adapter
from preftree.records import Message, Provenance, Text
from preftree.storage.atomic import append_durably


@dataclass(frozen=True, eq=False, slots=True)
class Speaker:
    """A model with its tokenizer.

    Attributes:
      name: Name that the user gave.
      model, tokenizer: The model and its tokenizer.
      adapter: Index of the active adapter, where the model holds several.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: int | None = None

    @property
    def has_template(self) -> bool:
        """Whether the model takes conversations; otherwise it continues a text."""
        return bool(self.tokenizer.chat_template)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation so far.

    Attributes:
      templated: Whether turns go through a chat template; otherwise each text of the user is a prompt by itself.
      system: System message.
      turns: Messages of user and assistant.
    """

    templated: bool
    system: str | None = None
    turns: tuple[Message, ...] = ()

    @property
    def number(self) -> int:
        """Number of the user's messages."""
        return sum(turn.role == "user" for turn in self.turns)

    @property
    def prompt(self) -> Text:
        """The prompt for the models."""
        if not self.templated:
            return self.turns[-1].content
        return (*(() if self.system is None else (Message("system", self.system),)), *self.turns)

    def ask(self, text: str) -> Chat:
        """The chat with another message of the user."""
        return replace(self, turns=(*self.turns, Message("user", text)))

    def hear(self, text: str) -> Chat:
        """The chat with another message of the assistant."""
        return replace(self, turns=(*self.turns, Message("assistant", text)))

    @property
    def question(self) -> str:
        """The last message of the user."""
        return next((str(turn.content) for turn in reversed(self.turns) if turn.role == "user"), "")

    def unasked(self) -> Chat:
        """The chat without a last question that nothing has answered."""
        return replace(self, turns=self.turns[:-1])

    def undo(self) -> Chat:
        """The chat without its last question and answer."""
        return replace(self, turns=self.turns[:-2])


@dataclass(frozen=True, slots=True)
class Answer:
    """A speaker's answer, and the name of the speaker."""

    speaker: str
    text: str


def answer(
    speaker: Speaker, chat: Chat, sampling: Sampling, *, row: int, show: Callable[[str], None] | None = None
) -> Answer:
    """The speaker's answer to the last message of the user.

    Args:
      speaker: The model that answers.
      chat: A conversation that ends with the user's message.
      sampling: How the answer is drawn.
      row: Number that decides the random numbers, together with the seed.
      show: Called with the text, piece by piece.
    Raises:
      DataError: the template refuses the conversation, or a special token is spelled out in it.
    """
    ids = encode_prompts(speaker.tokenizer, [Prompt(Provenance("chat", chat.number), chat.prompt)])
    if speaker.adapter is not None:
        use_adapter(speaker.model, speaker.adapter)
    (response,) = generate(speaker.model, speaker.tokenizer, ids, sampling, first_row=row, show=show)
    # The limit may cut a character in two, and its first bytes are not text.
    return Answer(speaker.name, response.text if response.finished else response.text.rstrip("\ufffd"))


def shuffle_sides(answers: Sequence[Answer], *, seed: int, number: int) -> list[Answer]:
    """Two answers in an order that (seed, turn) decides, so that no model is always on one side."""
    reverse = uniforms(seed, np.array([number]), 0)[0] < 0.5
    return list(reversed(answers)) if reverse else list(answers)


def require_text(answer: Answer) -> None:
    """Refuse an answer that a preference file cannot hold.

    Raises:
      DataError: the answer is empty, or holds bytes that are not text.
    """
    if not answer.text.strip():
        raise DataError("an answer is empty, so there is nothing to choose; ask again")
    if "\ufffd" in answer.text:
        raise DataError("an answer holds bytes that are not text (U+FFFD), so nothing was recorded; ask again")


def count_rows(path: Path) -> int:
    """Rows of a preference file that choices are appended to; 0 where there is none.

    Raises:
      DataError: the file holds something else, or cannot be read.
    """
    if not path.exists():
        return 0
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give another --record") from error
    last = content.rstrip(b"\n").rpartition(b"\n")[2]
    try:
        row = json.loads(last) if last else {"chosen": ""}
        if "chosen" not in row or (content and not content.endswith(b"\n")):
            raise ValueError
    except (ValueError, TypeError):
        raise DataError(f"{path} is no file of preferences, one JSON object a line; give another --record") from None
    return content.count(b"\n")


def add_choice(path: Path, chat: Chat, better: Answer, other: Answer, *, tie: bool, both_bad: bool = False) -> None:
    """Append a choice to a preference file, with the names of the models; it is on the disk on return.

    Two bad answers are a tie with `both_bad` beside it.

    Raises:
      DataError: the file cannot be written.
    """
    row: dict[str, Any] = {"prompt": plain_text(chat.prompt)}
    for side, answer in (("chosen", better), ("rejected", other)):
        text: Text = (Message("assistant", answer.text),) if chat.templated else answer.text
        row |= {side: plain_text(text), f"{side}_model": answer.speaker}
    if tie:
        row["tie"] = True
    if both_bad:
        row["both_bad"] = True
    try:
        append_durably(path, (json.dumps(row, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); give another --record") from error

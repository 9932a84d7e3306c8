"""What a data file says, before any tokenizer has seen it.

A text is a plain string, or a conversation: a tuple of messages that the tokenizer's chat template renders. A record's
texts are all of one kind. The last message of a prompt is not the assistant's; a response is what the assistant says
next: one assistant message as a rule, more than one where a dialogue goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `train` says whether its tokens are scored (None: a response's assistant turns)."""

    role: str
    content: str
    train: bool | None = None


Text: TypeAlias = str | tuple[Message, ...]

Kind: TypeAlias = Literal["pair", "list", "response", "demonstration"]
"""What an example is, in data, losses and metrics: two responses, a ranking, a labelled response, one to imitate."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a record stood: the file as the user named it, and its line (or row) counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and the response to imitate; plain text is a demonstration with an empty prompt."""

    prompt: Text
    response: Text
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Preference:
    """Two responses to one prompt; pairs of figures are the chosen response's and the rejected one's.

    Attributes:
      prompt, chosen, rejected: What was asked, and the two answers.
      weight: 2 counts like the same pair twice.
      margin: By how much the chosen response is better.
      tie: Neither was preferred.
      win_prob: Probability that the chosen one is preferred, by some judge.
      scores: How good each is; the margin is their difference unless it is given.
      costs: A second score of each, to be kept low.
      other_margin: By how much the chosen response is better under another objective; below 0 where it is worse.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    weight: float = 1.0
    margin: float | None = None
    tie: bool = False
    win_prob: float | None = None
    scores: tuple[float, float] | None = None
    costs: tuple[float, float] | None = None
    other_margin: float | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """K responses to one prompt, best first; `scores` fall with the rank, where they are known."""

    prompt: Text
    responses: tuple[Text, ...]
    scores: tuple[float, ...] | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Label:
    """One response and whether it was liked: unpaired feedback."""

    prompt: Text
    response: Text
    desirable: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a judge sees: a prompt as its file has it, and two responses to it as text."""

    prompt: Text
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's answer to a comparison.

    Attributes:
      choice: The better response, or neither; `invalid` where the judge gave no answer that can be read.
      scores: How good it finds the left and the right response, where it says so.
    """

    choice: Literal["left", "right", "tie", "invalid"]
    scores: tuple[float, float] | None = None


Record: TypeAlias = Demonstration | Preference | Ranking | Label

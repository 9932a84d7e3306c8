"""Records of a project: prompts, responses, pairs, annotators, what was shown to whom, and votes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from preftree.records import Text

Choice: TypeAlias = Literal["first", "second", "tie", "bad"]
"""The better response of a pair, neither, or neither is any good."""

Side: TypeAlias = Literal["left", "right", "tie", "bad"]
"""A choice as the page shows it."""

Kind: TypeAlias = Literal["vote", "skip", "flag", "undo"]
"""What an annotator did with what was shown. An undo takes back the action before it, which stays in the file."""

PickedBy: TypeAlias = Literal["random", "active", "gold", "chat"]
"""Why a pair was chosen to be shown; `chat`: it came up in a chat, and was voted on there."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a project asks of its annotators.

    Attributes:
      title: Name of the project, shown on the page.
      guidelines: Instructions in Markdown.
      question: The question above each pair.
      overlap: Votes of different annotators that each pair gets.
      golds: Share of what an annotator sees that has a known answer, where the project has such pairs.
      repeats: Share of what an annotator sees that is an earlier pair with sides turned.
      pick: How the next pairs are chosen; 10 % are random in any case.
      strength: Whether annotators may say how much better a response is, 1 (a little) to 4 (much).
      lease: Seconds for which a pair that was shown is kept for its annotator.
    """

    title: str = "Which answer is better?"
    guidelines: str = ""
    question: str = "Which answer is better?"
    overlap: int = 1
    golds: float = 0.05
    repeats: float = 0.05
    pick: Literal["random", "d-optimal", "near-tie", "gap"] = "random"
    strength: bool = False
    lease: float = 900.0


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt.

    Attributes:
      id: Number, from 1.
      prompt: Text or conversation.
      slice: Group of the prompt in the figures; None where the file names none.
    """

    id: int
    prompt: Text
    slice: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A response to an item.

    Attributes:
      id, item: Numbers of the response and of its item.
      text: The response; of a conversation, its next message.
      source: Model or file that it is of; never shown to annotators.
      digest: Digest of the model's weights, where known.
      seed: Seed of the sample, where known.
      features: Numbers by which active picking compares responses; None where there are none.
    """

    id: int
    item: int
    text: str
    source: str
    digest: str | None = None
    seed: int | None = None
    features: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class StoredPair:
    """Two responses to one item.

    Attributes:
      id, item: Numbers of the pair and of its item.
      first, second: Numbers of the responses.
      gold: The known answer, of a file or of an adjudication.
      picked_by: Why it was chosen to be shown; None until then.
      p_pick: Probability with which it was chosen at that moment, among the pairs that were left.
    """

    id: int
    item: int
    first: int
    second: int
    gold: Choice | None = None
    picked_by: PickedBy | None = None
    p_pick: float | None = None


@dataclass(frozen=True, slots=True)
class Annotator:
    """Someone who votes.

    Attributes:
      id: Number, from 1.
      name: Name in the project; exports have the pseudonym.
      pseudonym: Name in exports: `a` and digits of a keyed hash.
      state: Whether the annotator may vote.
    """

    id: int
    name: str
    pseudonym: str
    state: Literal["active", "paused"] = "active"


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair on the screen of an annotator.

    Attributes:
      id: Random text; the idempotency key of its votes.
      pair, annotator: Numbers.
      first_is_left: Whether the pair's first response is on the left.
      visit: 0, or 1 for a repeat.
      at: Seconds since 1970.
      until: The lease: until then the pair is kept for the annotator.
      repeat_of: Id of what is shown again.
    """

    id: str
    pair: int
    annotator: int
    first_is_left: bool
    visit: int
    at: float
    until: float
    repeat_of: str | None = None

    def choice_of(self, side: Side) -> Choice:
        """The choice that a side stands for."""
        if side == "tie" or side == "bad":
            return side
        return "first" if (side == "left") == self.first_is_left else "second"


@dataclass(frozen=True, slots=True)
class ShownNow:
    """What was shown, and what was done with it.

    Attributes:
      shown: What was shown.
      last: Kind of its last row; None where nothing was done.
      turns: Number of its rows.
    """

    shown: Shown
    last: Kind | None
    turns: int


@dataclass(frozen=True, slots=True)
class Picked:
    """How a pair came to be shown.

    Attributes:
      pair: Its number.
      by: Why it was chosen.
      p: Probability of the choice, among the pairs that were left.
      place: Its place in the order of choices.
    """

    pair: int
    by: PickedBy
    p: float | None
    place: int | None


@dataclass(frozen=True, slots=True)
class Vote:
    """A row that is only ever added: what an annotator did with what was shown.

    Attributes:
      shown: Id of what was shown.
      turn: Number of earlier rows of this `shown`: even turns vote, skip or flag, odd ones undo.
      kind: What was done.
      choice: The choice of a vote; None of the other kinds.
      strength: How much better, 1 to 4, where given.
      ms: Milliseconds on the visible tab.
      at: Seconds since 1970, at the server.
      note: Words of the annotator.
    """

    shown: str
    turn: int
    kind: Kind
    choice: Choice | None
    strength: int | None
    ms: int
    at: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the store has of a vote that was sent to it.

    Attributes:
      row: The row of its (shown, turn).
      is_new: Whether it was added; otherwise it was there before.
      before: Kind of the row before it, of a new one: what an undo takes back.
    """

    row: Vote
    is_new: bool
    before: Kind | None


@dataclass(frozen=True, slots=True)
class Ballot:
    """The current vote, skip or flag of what was shown, with all that statistics and exports need of it.

    Attributes:
      id: Number of the vote's row.
      shown: Id of what was shown.
      pair, item, annotator: Numbers.
      kind: vote, skip or flag; what was undone and not done again is not there.
      choice: The choice of a vote; None of the other kinds.
      strength, ms, at, note: As in `Vote`.
      first_is_left: Whether the pair's first response was on the left.
      repeat_of: Id of the earlier `shown`, of a hidden repeat.
      gold: The pair's known answer.
      picked_by, p_pick: How the pair was chosen.
      slice: Group of the item.
    """

    id: int
    shown: str
    pair: int
    item: int
    annotator: int
    kind: Literal["vote", "skip", "flag"]
    choice: Choice | None
    strength: int | None
    ms: int
    at: float
    note: str
    first_is_left: bool
    repeat_of: str | None
    gold: Choice | None
    picked_by: PickedBy | None
    p_pick: float | None
    slice: str | None

    @property
    def side(self) -> Side | None:
        """The side that was chosen, as the page showed it."""
        if self.choice is None or self.choice == "tie" or self.choice == "bad":
            return self.choice
        return "left" if (self.choice == "first") == self.first_is_left else "right"

"""Records of data files before tokenisation, and the figures of rows.

A text is a plain string, or a conversation: a tuple of messages that the tokenizer's chat template renders. All texts
of a record are of one of these two types. The last message of a prompt is never the assistant's. A response is the
assistant's next message, or several turns that begin and end with the assistant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
      role: One of `ROLES`.
      content: Its text; "" for a turn of tool calls alone.
      train: Whether its tokens are scored; None leaves that to the rule: the assistant turns of a response.
      rest: What the chat template gets of it beside role and content, as JSON values: `reasoning_content`,
        `tool_calls`, `name`, for example.
    """

    role: str
    content: str
    train: bool | None = None
    rest: Mapping[str, Any] = field(default_factory=dict, hash=False)


class Conversation(tuple[Message, ...]):
    """Messages of a prompt that the chat template renders with more than the messages.

    Attributes:
      tools: Definitions of tools, as JSON objects.
      options: Further variables of the template, `enable_thinking` for example, as JSON values.
    """

    tools: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any]

    def __new__(
        cls, turns: Iterable[Message], tools: Sequence[Mapping[str, Any]] = (), options: Mapping[str, Any] | None = None
    ) -> Conversation:
        """A tuple of the turns that knows its tools and options."""
        conversation = super().__new__(cls, turns)
        conversation.tools, conversation.options = tuple(tools), dict(options or {})
        return conversation

    def __eq__(self, other: object) -> bool:
        """Equal turns, tools and options."""
        same = tuple.__eq__(self, other) if isinstance(other, tuple) else False
        return same and (self.tools, self.options) == (tools_of(other), template_options_of(other))

    def __ne__(self, other: object) -> bool:
        """Whether anything differs."""
        return not self == other

    __hash__ = tuple.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and other processes get tools and options as well."""
        return Conversation, (tuple(self), self.tools, self.options)


Text: TypeAlias = str | tuple[Message, ...]


def tools_of(text: object) -> tuple[Mapping[str, Any], ...]:
    """Definitions of the tools that a prompt is rendered with."""
    return text.tools if isinstance(text, Conversation) else ()


def template_options_of(text: object) -> Mapping[str, Any]:
    """Variables that the chat template gets beside the messages and tools of a prompt."""
    return text.options if isinstance(text, Conversation) else {}


Kind: TypeAlias = Literal["pair", "list", "response", "demonstration"]
"""Kind of an example in data, losses and metrics: two responses, a ranking, a labelled response, or a demonstration."""

Figures: TypeAlias = Mapping[str, tuple[float, ...]]
"""Figures of a row by name (a key of FIGURES): one value, or one for each response, the chosen or best one first."""


@dataclass(frozen=True, slots=True)
class RowFigure:
    """A number that a row may hold in addition to its texts.

    Attributes:
      name: Key in the figures of a record and of an example, and column of a token store. In the plural where each
        response has a value.
      input: Name of the loss input.
      kinds: Kinds of examples that have it.
      meaning: Description of the loss input.
      title: Name in the tables of losses.
      wanted: Fields that hold it, for the error where a loss needs it and a row has none.
      neutral: Value with no, or almost no, effect on a loss; for its curve.
      per_response: Whether each response has a value, rather than the row.
      lowest, highest: Range of a value, both ends included.
      above_zero: Whether losses need a value above 0.
    """

    name: str
    input: str
    kinds: tuple[Kind, ...]
    meaning: str
    title: str
    wanted: str
    neutral: float = 0.0
    per_response: bool = False
    lowest: float = float("-inf")
    highest: float = float("inf")
    above_zero: bool = False

    def fields(self, kind: Kind) -> tuple[str, ...]:
        """Fields that hold it in a row; in a list, one field with a number for each response."""
        if not self.per_response or kind == "list":
            return (self.name,)
        stem = self.name.removesuffix("s")
        return (f"{stem}_chosen", f"{stem}_rejected") if kind == "pair" else (stem,)


FIGURES: dict[str, RowFigure] = {
    figure.name: figure
    for figure in (
        RowFigure(
            "margin",
            input="margins",
            kinds=("pair",),
            meaning="how much better the chosen response is, by a score in the data, > 0, [P]",
            title="margins",
            wanted="'margin', or 'score_chosen' and 'score_rejected'",
            neutral=1.0,
            above_zero=True,
        ),
        RowFigure(
            "other_margin",
            input="other_margins",
            kinds=("pair",),
            meaning="how much better the chosen response is under another objective, either sign, [P]",
            title="margins of another objective",
            wanted="'other_margin', the other objective's reward, chosen minus rejected",
        ),
        RowFigure(
            "win_prob",
            input="win_prob",
            kinds=("pair",),
            meaning="probability that the chosen response is preferred, by a judge in the data, [P]",
            title="win probabilities",
            wanted="'win_prob', the probability that a judge prefers the chosen response",
            neutral=1.0,
            lowest=0.0,
            highest=1.0,
        ),
        RowFigure(
            "costs",
            input="costs",
            kinds=("pair",),
            meaning="PairValues: a second score of each response, to be kept below a bound",
            title="costs",
            wanted="'cost_chosen' and 'cost_rejected'",
            per_response=True,
        ),
        RowFigure(
            "scores",
            input="list_scores",
            kinds=("list",),
            meaning="score of each response of the lists, falling within a list, [R]",
            title="scores",
            wanted="'scores' (of a pair: 'score_chosen' and 'score_rejected')",
            per_response=True,
        ),
    )
}
"""Table of all figures, read by formats, token stores, checks of a run's data and loss inputs."""


def figures_of(kind: Kind) -> list[RowFigure]:
    """Figures of records of a kind; a pair also has those of lists, since it can become a list of two."""
    kinds = ("pair", "list") if kind == "pair" else (kind,)
    return [figure for figure in FIGURES.values() if set(kinds) & set(figure.kinds)]


def select_responses(figures: Figures, indices: Sequence[int]) -> dict[str, tuple[float, ...]]:
    """The figures of the responses at `indices`, in that order; figures of the whole row are kept."""
    return {
        name: tuple(values[index] for index in indices) if FIGURES[name].per_response else values
        for name, values in figures.items()
    }


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of a record: the file as the user named it, and its line (or row) counted from 1."""

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
    """Two responses to one prompt.

    Attributes:
      prompt: The prompt.
      chosen, rejected: The better and the worse response.
      weight: Weight in every mean; 2 counts as two such pairs.
      tie: Whether neither is preferred.
      figures: Figures of the pair; figures of responses have the chosen one first. The difference of scores is the
        margin unless the row has one.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    weight: float = 1.0
    tie: bool = False
    figures: Figures = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Ranking:
    """K responses to one prompt, best first; the figure `scores` decreases."""

    prompt: Text
    responses: tuple[Text, ...]
    weight: float = 1.0
    figures: Figures = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Label:
    """One response and whether it was liked: unpaired feedback."""

    prompt: Text
    response: Text
    desirable: bool
    weight: float = 1.0
    figures: Figures = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to a prompt, for a judge: the prompt as in its file, the responses as text."""

    prompt: Text
    left: str
    right: str


VerdictChoice: TypeAlias = Literal["left", "right", "tie", "invalid", "failed"]
"""What a judge says of a comparison; `invalid` is an answer that cannot be read, `failed` that none came."""

VerdictState: TypeAlias = Literal["decided", "tie", "invalid", "failed"]
"""State of a verdict; every comparison ends in one of them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a comparison by a judge.

    Attributes:
      choice: The better response, or neither; `invalid` where the judge's answer cannot be read, `failed` where there
        is none.
      scores: The judge's scores of the left and the right response, if any.
      probability: The judge's probability that the left response is the better one, in [0, 1], if it has one.
      reason: The judge's reason in its own words, in which answer 1 is the one that it was shown first; of an invalid
        or failed verdict what is wrong with it.
    """

    choice: VerdictChoice
    scores: tuple[float, float] | None = None
    probability: float | None = None
    reason: str | None = None

    @property
    def state(self) -> VerdictState:
        """Whether it is decided, a tie, invalid or failed."""
        return "decided" if self.choice in ("left", "right") else self.choice


Record: TypeAlias = Demonstration | Preference | Ranking | Label

"""The file of a judge: which model is asked where, by which rubric, and what it may cost.

Nothing of it is a template: prompts and responses never pass through a format string. `{name}` in the task, in a
criterion or in an anchor stands for one of the file's own `variables`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from preftree.config.yaml import read_yaml_file
from preftree.errors import ConfigError

Mode: TypeAlias = Literal["pairwise", "pointwise", "ranking"]

DEFAULT_TASK = (
    "Judge by what a careful expert would prefer to receive: an answer that does what the prompt asks, is correct, and "
    "is neither longer nor more confident than its content bears out."
)

R = TypeVar("R", bound="Rubric")

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_VARIABLE_NAME = re.compile(r"[A-Z][A-Z0-9_]*|[a-z][a-z0-9_]*")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Criterion(_Strict):
    """One thing that a judge looks at.

    Attributes:
      name: A word; it is a key of the answer.
      description: What it means.
      weight: Weight beside the other criteria, > 0.
      anchors: What a score means, by the score as text: {"1": "wrong", "5": "right and complete"}.
    """

    name: str = Field(pattern=r"^[A-Za-z][\w-]*$", max_length=40)
    description: str = ""
    weight: float = Field(default=1.0, gt=0)
    anchors: Mapping[str, str] = {}


class Price(_Strict):
    """Price of a million tokens, in any currency.

    Attributes:
      input, output: Tokens that are read, and tokens that are written.
    """

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Rubric(_Strict):
    """What a judge is asked.

    Attributes:
      mode: `pairwise` compares two responses; `pointwise` scores one, which makes it a reward; `ranking` orders several
        responses to one prompt.
      task: What to judge by, in a sentence or two.
      criteria: What to look at, each on its own; the answer has a part for each, and weights add them up. Empty asks
        one question.
      variables: Texts that `{name}` stands for in task, descriptions and anchors; each must be used.
      scale: Lowest and highest score of `pointwise`.
      ties: Whether `pairwise` may call two responses equally good.
      reason: Whether the judge gives its reason `first`, `last`, or not at all: `none`.
      references: A data file with good answers to the prompts, which the judge sees beside the responses.
    """

    mode: Mode = "pairwise"
    task: str = DEFAULT_TASK
    criteria: list[Criterion] = []
    variables: Mapping[str, str] = {}
    scale: list[int] = Field(default=[1, 10], min_length=2, max_length=2)
    ties: bool = True
    reason: Literal["first", "last", "none"] = "first"
    references: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Rubric:
        low, high = self.scale
        if not low < high <= low + 100:
            raise ValueError(f"scale must be two rising whole numbers at most 100 apart, got {self.scale}")
        if len({criterion.name for criterion in self.criteria}) < len(self.criteria):
            raise ValueError("criteria must have different names")
        for criterion in self.criteria:
            if criterion.anchors and self.mode != "pointwise":
                raise ValueError(f"anchors of {criterion.name!r} describe scores, which mode {self.mode} has none of")
            if odd := [name for name in criterion.anchors if name not in map(str, range(low, high + 1))]:
                raise ValueError(f"anchors of {criterion.name!r} must be scores from {low} to {high}, got {odd[0]!r}")
        _check_placeholders(self._texts(), self.variables)
        return self

    def _texts(self) -> list[str]:
        inner = [text for one in self.criteria for text in (one.description, *one.anchors.values())]
        return [self.task, *inner]

    def fill(self, text: str) -> str:
        """A text of the rubric with its variables written out."""
        return _PLACEHOLDER.sub(lambda match: self.variables[match[1]], text)


class JudgeFile(Rubric):
    """A judge: rubric, model, endpoint, and cost.

    Attributes:
      model: The model's id at the endpoint, or `hf:PATH` for a model on this computer.
      endpoint: Base URL of an OpenAI-compatible server, https or on this computer.
      api_key_env: Name of the environment variable that holds the key; never the key.
      temperature: Sampling temperature.
      max_tokens: Most tokens of an answer.
      price: Price of a million tokens; without it no cost is known.
      max_cost: Most that one run may cost, in the price's currency.
      concurrency: Requests at once.
      timeout: Seconds that a request may take.
      retries: Times that a request is sent again after an error of the server or the network.
      canaries: Pairs with a better and a worse answer, of which the canaries are made; by default those that come
        along.
    """

    model: str = Field(min_length=1)
    endpoint: str | None = None
    api_key_env: str | None = None
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=512, ge=1)
    price: Price | None = None
    max_cost: float | None = Field(default=None, gt=0)
    concurrency: int = Field(default=8, ge=1, le=256)
    timeout: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0, le=20)
    canaries: str | None = None

    @field_validator("api_key_env")
    @classmethod
    def _name_and_no_key(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE_NAME.fullmatch(value):
            raise ValueError(
                "must be the name of an environment variable, such as JUDGE_API_KEY, and this is none; a key itself "
                "never stands in a file"
            )
        return value

    @model_validator(mode="after")
    def _check_place(self) -> JudgeFile:
        if (self.endpoint is None) != self.model.startswith("hf:"):
            raise ValueError(
                "an endpoint belongs to a model's id there, and none to a model hf:PATH; change one of them"
            )
        if self.max_cost is not None and self.price is None:
            raise ValueError("max_cost needs a price; give price: {input: ..., output: ...} of a million tokens")
        return self


def read_judge_file(path: str) -> JudgeFile:
    """A judge from its YAML file.

    Raises:
      ConfigError: the file cannot be read, or an option is unknown, missing or invalid; paths in it are relative to it.
    """
    options, lines = read_yaml_file(Path(path).expanduser())
    judge = check_judge(JudgeFile, options, path, lines)
    places = {name: _beside(path, value) for name in ("references", "canaries") if (value := getattr(judge, name))}
    return judge.model_copy(update=places)


def check_judge(kind: type[R], options: Mapping[str, object], place: str, lines: Mapping[str, int] | None = None) -> R:
    """A rubric or a judge from plain options.

    Raises:
      ConfigError: an option is unknown, missing or invalid; the sentence names it and its line.
    """
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        line = (lines or {}).get(name)
        where = place if line is None else f"{place}:{line}"
        problem = {"extra_forbidden": "is no option of a judge", "missing": "is missing"}.get(first["type"])
        said = problem or first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {name + ' ' if name else ''}{said[:1].lower() + said[1:]}") from None


def _beside(path: str, value: str) -> str:
    place = Path(value).expanduser()
    return str(place if place.is_absolute() else Path(path).expanduser().parent / place)


def _check_placeholders(texts: list[str], variables: Mapping[str, str]) -> None:
    used = {name for text in texts for name in _PLACEHOLDER.findall(text)}
    if unknown := sorted(used - variables.keys()):
        about = ""
        if unknown[0] in ("prompt", "response", "answer", "reference", "question", "input", "output"):
            about = ", and prompt, responses and reference are shown to the judge by themselves"
        raise ValueError(f"{{{unknown[0]}}} is none of the file's variables{about}; define it, or take it out")
    if unused := sorted(variables.keys() - used):
        raise ValueError(
            f"the variable {unused[0]!r} stands nowhere; write {{{unused[0]}}} where it belongs, or delete it"
        )

"""Length budgets, and the trimming of a row that exceeds them; token counts only, no ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from preftree.data.rows.faults import RowFault
from preftree.errors import ConfigError

Truncation: TypeAlias = Literal["drop", "trim_prompt", "trim_response"]


@dataclass(frozen=True, slots=True)
class Budgets:
    """Most tokens of a sequence and of its fields, special tokens included; None is no limit.

    Attributes:
      max_length: Prompt and one response together.
      max_prompt_length: The prompt.
      max_response_length: One response.
    """

    max_length: int | None = None
    max_prompt_length: int | None = None
    max_response_length: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_length", 2), ("max_prompt_length", 1), ("max_response_length", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")


UNLIMITED = Budgets()


@dataclass(frozen=True, slots=True)
class Fit:
    """Trimming of a prompt and its responses.

    Attributes:
      cut_prompt: Tokens removed from the beginning of the prompt, after its start tokens.
      kept: Tokens kept of each response, from its beginning; 0 where it cannot fit.
    """

    cut_prompt: int
    kept: tuple[int, ...]


def fit(prompt: int, responses: Sequence[int], *, start: int, budgets: Budgets, truncation: Truncation) -> Fit:
    """Trimming that leaves each kept response at least one token, and the prompt at least one after its start tokens.

    A prompt is trimmed once for all its responses, to make room for the longest that can fit, so they still share it.

    Args:
      prompt: Tokens of the prompt, at least 1.
      responses: Tokens of each response, at least 1.
      start: Tokens at the beginning of the prompt that are never removed: the BOS.
      budgets: The limits.
      truncation: `drop` trims nothing, `trim_prompt` only the prompt, `trim_response` only responses; a row that
        exceeds a budget after trimming does not fit.
    Raises:
      RowFault: the prompt cannot fit.
    """
    limit = budgets.max_length
    over = budgets.max_prompt_length is not None and prompt > budgets.max_prompt_length
    if truncation == "trim_prompt":
        least = min(prompt, start + 1)
        if budgets.max_prompt_length is not None and least > budgets.max_prompt_length:
            raise _too_long("prompt", "max_prompt_length", budgets.max_prompt_length, least)
        kept = tuple(
            size if size <= _least(budgets.max_response_length, limit and limit - least) else 0 for size in responses
        )
        room = prompt if limit is None else limit - max(kept)
        return Fit(prompt - min(prompt, room, budgets.max_prompt_length or prompt), kept)
    if over:
        raise _too_long("prompt", "max_prompt_length", budgets.max_prompt_length, prompt)
    if limit is not None and prompt >= limit:
        raise _too_long("prompt", "max_length", limit, prompt + 1)
    room = _least(budgets.max_response_length, limit and limit - prompt)
    if truncation == "trim_response":
        return Fit(0, tuple(int(min(size, room)) for size in responses))
    return Fit(0, tuple(size if size <= room else 0 for size in responses))


def too_long(field: str, prompt: int, response: int, budgets: Budgets) -> RowFault:
    """The fault of a response that does not fit, with the exceeded limit."""
    if budgets.max_response_length is not None and response > budgets.max_response_length:
        return _too_long(field, "max_response_length", budgets.max_response_length, response)
    return _too_long(field, "max_length", budgets.max_length, prompt + response)


def _too_long(field: str, name: str, limit: int | None, size: int) -> RowFault:
    message = f"'{field}' makes {size} tokens, over {name} {limit}; raise it, or choose another truncation policy"
    return RowFault("too_long", field, message)


def _least(*limits: int | None) -> float:
    return float(min((limit for limit in limits if limit is not None), default=float("inf")))

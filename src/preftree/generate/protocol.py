"""The protocol of engines that sample responses: from token ids of prompts to generations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from preftree.errors import ConfigError
from preftree.tree.layout import TokenSequence


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses are drawn.

    Attributes:
      max_new_tokens: Most tokens of a response, its end-of-sequence token included.
      temperature: Logits are divided by it; 0 takes the most likely token, and the lowest id among equals.
      top_p: Tokens are drawn from the fewest that together hold this mass.
      seed: Seed of the random numbers.
      stop: Texts that end a response; it is cut where the first of them begins.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be >= 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be >= 0 and finite, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p}")
        if not all(self.stop):
            raise ConfigError("a stop text must not be empty; remove it")


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled response.

    Attributes:
      text: The response as text, without special tokens at its end, and without a stop text and what follows it.
      ids: Token ids without the end token; after a stop text, up to the token that completed it.
      end: End token; None where max_new_tokens or a stop text cut the response.
      stopped: Whether a stop text ended the response.
    """

    text: str
    ids: tuple[int, ...]
    end: int | None
    stopped: bool = False

    @property
    def finished(self) -> bool:
        """Whether the response ended before max_new_tokens cut it."""
        return self.end is not None or self.stopped

    @property
    def num_tokens(self) -> int:
        """Number of tokens, the end token included."""
        return len(self.ids) + (self.end is not None)


@runtime_checkable
class Sampler(Protocol):
    """A model in an engine (hf.py, vllm.py)."""

    def __call__(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, first_row: int = 0) -> list[Generation]:
        """One response a prompt, in order.

        Args:
          prompts: Token ids of each row's prompt; a prompt that is repeated is sampled again.
          sampling: How responses are drawn.
          first_row: Number of the first prompt among all rows of the job: the seed and this number decide a row's text.
        """
        ...


def cut_response(tokenizer: Any, drawn: Sequence[int], ends: Sequence[int], stop: Sequence[str]) -> Generation:
    """A row's tokens as a response: up to the first end token or stop text, whichever comes first.

    Args:
      tokenizer: Tokenizer of the model.
      drawn: Token ids; ids after an end token or a stop text are ignored.
      ends: Tokens that end a response.
      stop: Texts that end a response.
    """
    end = next((index for index, token in enumerate(drawn) if token in ends), None)
    kept = drawn[:end]
    text = decode(tokenizer, kept)
    if first_stop(text, stop) is not None:
        num = next(num for num in range(len(kept) + 1) if first_stop(decode(tokenizer, kept[:num]), stop) is not None)
        text = decode(tokenizer, kept[:num])
        return Generation(text[: first_stop(text, stop)], tuple(kept[:num]), None, stopped=True)
    return Generation(text, tuple(kept), None if end is None else drawn[end])


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Ids as text, with special tokens and spaces unchanged."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Index at which the first stop text in a text begins; None where there is none."""
    return min((index for words in stop if (index := text.find(words)) >= 0), default=None)


def response_sequence(prompt: Sequence[int], response: Generation) -> TokenSequence:
    """A prompt and its response, with the end token where there is one, as a sequence whose response is scored."""
    ids = np.array([*prompt, *response.ids, *([] if response.end is None else [response.end])], np.int32)
    return TokenSequence(ids, np.arange(len(ids)) >= len(prompt))

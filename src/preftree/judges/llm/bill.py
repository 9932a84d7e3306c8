"""What judging costs: an estimate before, a limit while it runs, a bill after it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preftree.errors import ConfigError, JudgeError
from preftree.judges.llm.cache import Reply, Usage
from preftree.judges.llm.rubric import Price

CHARACTERS_A_TOKEN = 4.0
"""What a token is taken for where a server has not said how many it counted."""


@dataclass(eq=False)
class Bill:
    """Requests of a run, and their tokens.

    Attributes:
      asked: Answers that were paid for.
      cached: Answers that were there.
      failed: Requests without an answer.
      input, output: Tokens read and written.
      without_usage: Answers whose tokens the server did not count, and which are estimated.
      cost: Cost, where the price is known.
    """

    asked: int = 0
    cached: int = 0
    failed: int = 0
    input: int = 0
    output: int = 0
    without_usage: int = 0
    cost: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The bill as a JSON object."""
        return dict(vars(self))

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", cost {self.cost:.4g}"
        guess = f", {self.without_usage} of them estimated" if self.without_usage else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"{self.asked} answers asked for, {self.cached} cached{failed}; {self.input} tokens read, {self.output} "
            f"written{guess}{cost}"
        )


def no_progress(name: str, done: int, total: int | None) -> None:
    """Show nothing."""


@dataclass(eq=False)
class Asking:
    """How a run asks its judges.

    Attributes:
      max_cost: Most that it may cost, in the currency of the price; None leaves that to the judge's file.
      progress: Called with what is done: a name, answers so far, and their number at the end.
      cache: File of the answers; by default one in the cache folder.
      bill: What it has cost so far.
    """

    max_cost: float | None = None
    progress: Callable[[str, int, int | None], None] = no_progress
    cache: Path | None = None
    bill: Bill = field(default_factory=Bill)


class Account:
    """The bill of a run under its limit; safe to use from several threads."""

    def __init__(self, bill: Bill, price: Price | None, limit: float | None) -> None:
        """Open an account.

        Raises:
          ConfigError: there is a limit and no price.
        """
        self._bill, self._price, self._limit = bill, price, limit
        self._lock = threading.Lock()
        if limit is not None and price is None:
            raise ConfigError(
                "--max-cost needs a price: give llm:FILE.yaml with price: {input: ..., output: ...} of a million tokens"
            )
        if price is not None and bill.cost is None:
            bill.cost = 0.0

    def estimate(self, requests: int, characters: int, usage: Usage) -> str:
        """What requests will cost, in words.

        Args:
          requests: Number of requests.
          characters: Characters that are sent with them.
          usage: Tokens of earlier answers of the same place.
        Raises:
          JudgeError: it is more than the limit leaves.
        """
        each = usage.input / usage.characters if usage.characters else 1 / CHARACTERS_A_TOKEN
        written = usage.output / usage.answers if usage.answers else 100.0
        tokens = characters * each, requests * written
        said = f"{requests} requests, about {tokens[0]:,.0f} tokens to read and {tokens[1]:,.0f} to write"
        if self._price is None:
            return said
        cost = self._cost(*tokens)
        said += f", about {cost:.4g}"
        left = None if self._limit is None else self._limit - (self._bill.cost or 0.0)
        if left is not None and cost > left:
            raise JudgeError(f"judging would take {said}, and --max-cost leaves {left:.4g}; raise it, or judge less")
        return said

    def check(self) -> None:
        """Refuse the next request where the limit is reached.

        Raises:
          JudgeError: it is reached.
        """
        with self._lock:
            cost = self._bill.cost or 0.0
            if self._limit is not None and cost >= self._limit:
                raise JudgeError(
                    f"the limit of {self._limit:g} is reached ({cost:.4g} spent); every answer is kept: raise "
                    "--max-cost, and run the same command again"
                )

    def pay(self, reply: Reply, characters: int) -> None:
        """Add an answer to the bill."""
        read, written = reply.input, reply.output
        with self._lock:
            if read is None or written is None:
                self._bill.without_usage += 1
                read = round(characters / CHARACTERS_A_TOKEN)
                written = round(len(reply.text) / CHARACTERS_A_TOKEN)
            self._bill.asked += 1
            self._bill.input += read
            self._bill.output += written
            if self._price is not None:
                self._bill.cost = (self._bill.cost or 0.0) + self._cost(read, written)

    def fail(self) -> None:
        """Count a request without an answer."""
        with self._lock:
            self._bill.failed += 1

    def cached(self, num: int) -> None:
        """Count answers that were there."""
        self._bill.cached += num

    def _cost(self, read: int | float, written: int | float) -> float:
        assert self._price is not None
        return (read * self._price.input + written * self._price.output) / 1e6

"""The store of a project: a protocol of what the queue and the page need, and the one on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Protocol

from preftree.collect.records import Annotator, Settings, Shown, Vote


class Store(Protocol):
    """What keeps a project. Everything that is added is on the disk before the call returns."""

    def settings(self) -> Settings:
        """What the project asks of its annotators."""
        ...

    def annotator(self, number: int) -> Annotator | None:
        """An annotator; None where there is none."""
        ...

    def show(self, shown: Sequence[Shown]) -> None:
        """Add what is shown to annotators; a row whose id is there has its lease renewed."""
        ...

    def vote(self, votes: Sequence[Vote]) -> list[Vote]:
        """Add votes.

        Returns:
          The row of each (shown, turn) that is in the store now: the given one, or an earlier one.
        """
        ...

    def connection(self) -> sqlite3.Connection:
        """A connection that reads."""
        ...

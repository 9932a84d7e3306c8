"""Report of one tokenisation; kept with the store, so that a later run that reads the store can print it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from preftree.data.rows.faults import ACTIONS, Rejected
from preftree.errors import CacheError


@dataclass(frozen=True, slots=True)
class TokenReport:
    """Report of one tokenisation.

    Attributes:
      path: The source as the user named it.
      format: The format of its rows.
      rows: Rows read.
      accepted: Rows with at least one example.
      examples: Examples in the store; a ranking has one for each of its pairs.
      faults: Rejected rows by their first fault.
      rejected: The first rejected rows.
      actions: Counts of the changes to accepted rows (see faults.ACTIONS).
      places: The first rows of each action.
      lengths: Summary of the token counts of `prompt` and `response`, after trimming.
      templated: Rows rendered by the chat template; the others are plain text.
      repeated: Rows left out since an earlier one says the same.
      unread: Fields that are not empty and that the format does not read, with the rows that have them.
      cached: Whether an earlier run tokenised the source.
      rebuilt: Reason why a damaged cached store was not used.
    """

    path: str
    format: str
    rows: int
    accepted: int
    examples: int
    faults: Mapping[str, int]
    rejected: tuple[Rejected, ...]
    actions: Mapping[str, int]
    places: Mapping[str, tuple[str, ...]]
    lengths: Mapping[str, Mapping[str, int | float]]
    templated: int
    repeated: int
    unread: Mapping[str, int]
    cached: bool = False
    rebuilt: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TokenReport:
        """The report of a cached store.

        Raises:
          CacheError: it is not what `as_json` gives.
        """
        try:
            fixed = {
                "rejected": tuple(Rejected(**row) for row in value["rejected"]),
                "places": {action: tuple(places) for action, places in value["places"].items()},
                "cached": True,
                "rebuilt": None,
            }
            return TokenReport(**{**value, **fixed})
        except (KeyError, TypeError, AttributeError) as error:
            raise CacheError(f"the report of a cached store cannot be read ({error})") from error

    def lines(self) -> list[str]:
        """The report in words: one line of counts, then a line for each fault and action with its first rows."""
        kind = "chat template" if self.templated else "plain text"
        lines = [
            f"{self.path}: {self.format}, {kind}, {self.rows} rows, {self.accepted} accepted, {self.examples} examples"
            + (" (tokenised by an earlier run)" if self.cached else "")
        ]
        if self.rebuilt:
            lines.append(f"  tokenised again: {self.rebuilt}")
        if self.repeated:
            first = ", ".join(self.places["repeated"][:3])
            lines.append(f"  left out {self.repeated} repeats of earlier rows; first {first}")
        if self.unread:
            fields = ", ".join(f"{field} ({rows} rows)" for field, rows in self.unread.items())
            lines.append(f"  not read: {fields}")
        for fault, count in self.faults.items():
            first = next((str(row) for row in self.rejected if row.fault == fault), "")
            lines.append(f"  rejected {count} x {fault}" + (f", first {first}" if first else ""))
        for action, count in self.actions.items():
            lines.append(f"  {action} {count}: {ACTIONS[action]}; first {', '.join(self.places[action][:3])}")
        return lines

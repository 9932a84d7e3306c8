"""Length bias of labels: how often the preferred response is the longer one, in characters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from preftree.data.rows.duplicates import ordered_pairs
from preftree.data.rows.texts import length
from preftree.records import Demonstration, Label, Preference, Ranking, Record


@dataclass(slots=True)
class LengthBias:
    """Counts that records add to, one after the other; ties and demonstrations say nothing.

    A pair is one comparison, a ranking one for each of its pairs; of labelled responses each liked one is compared with
    each disliked one of the file.
    """

    _comparisons: int = 0
    _longer: float = 0.0
    _liked: Counter[int] = field(default_factory=Counter)
    _disliked: Counter[int] = field(default_factory=Counter)
    _paired: bool = False

    def add(self, record: Record) -> None:
        """Take a record."""
        if isinstance(record, Demonstration) or (isinstance(record, Preference) and record.tie):
            return
        if isinstance(record, Label):
            (self._liked if record.desirable else self._disliked)[length(record.response)] += 1
            return
        self._paired = True
        if isinstance(record, Preference):
            self._compare(length(record.chosen), length(record.rejected))
            return
        assert isinstance(record, Ranking)
        lengths = [length(response) for response in record.responses]
        for better, worse in ordered_pairs(record):
            self._compare(lengths[better], lengths[worse])

    def _compare(self, better: int, worse: int) -> None:
        self._comparisons += 1
        self._longer += 0.5 + 0.5 * ((better > worse) - (better < worse))
        self._liked[better] += 1
        self._disliked[worse] += 1

    @property
    def share(self) -> float | None:
        """Share of comparisons whose preferred response is longer, one of equal length as a half; None without any."""
        if self._paired:
            return self._longer / self._comparisons if self._comparisons else None
        return _share_of_longer(self._liked, self._disliked)

    def as_json(self) -> dict[str, Any] | None:
        """The share, and mean characters of preferred and other responses; None where nothing is compared."""
        if self.share is None:
            return None
        means = [sum(size * count for size, count in sizes.items()) / sizes.total() for sizes in self._sizes]
        return {
            "preferred_longer": round(self.share, 4),
            "mean_preferred": round(means[0], 1),
            "mean_other": round(means[1], 1),
        }

    @property
    def _sizes(self) -> tuple[Counter[int], Counter[int]]:
        return self._liked, self._disliked


def _share_of_longer(liked: Counter[int], disliked: Counter[int]) -> float | None:
    """Share of couples of a liked and a disliked response whose liked one is longer: the area under the ROC curve."""
    couples = liked.total() * disliked.total()
    if not couples:
        return None
    longer, shorter_disliked = 0.0, 0
    for size in sorted(liked.keys() | disliked.keys()):
        longer += liked[size] * (shorter_disliked + 0.5 * disliked[size])
        shorter_disliked += disliked[size]
    return longer / couples

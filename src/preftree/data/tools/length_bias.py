"""Length bias of labels: how often the preferred response is the longer one, in characters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from preftree.data.rows.duplicates import ordered_pairs
from preftree.data.rows.texts import length
from preftree.records import Label, Preference, Ranking, Record


@dataclass(slots=True)
class LengthBias:
    """Counts that records add to, one after the other; ties and demonstrations say nothing.

    A pair is one comparison, a ranking one for each of its pairs; of labelled responses each liked one is compared with
    each disliked one of the file.
    """

    _comparisons: int = 0
    _longer: float = 0.0
    _better: int = 0  # characters of all preferred responses, and of the others
    _worse: int = 0
    _liked: Counter[int] = field(default_factory=Counter)
    _disliked: Counter[int] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Take a record."""
        if isinstance(record, Preference):
            if not record.tie:
                self._compare(length(record.chosen), length(record.rejected))
        elif isinstance(record, Ranking):
            lengths = [length(response) for response in record.responses]
            for better, worse in ordered_pairs(record):
                self._compare(lengths[better], lengths[worse])
        elif isinstance(record, Label):
            (self._liked if record.desirable else self._disliked)[length(record.response)] += 1

    def _compare(self, better: int, worse: int) -> None:
        self._comparisons += 1
        self._longer += 1.0 if better > worse else 0.5 if better == worse else 0.0
        self._better += better
        self._worse += worse

    @property
    def share(self) -> float | None:
        """Share of comparisons whose preferred response is longer, one of equal length as a half; None without any."""
        if self._comparisons:
            return self._longer / self._comparisons
        return _share_of_longer(self._liked, self._disliked)

    def as_json(self) -> dict[str, Any] | None:
        """The share, and mean characters of preferred and other responses; None where nothing is compared."""
        if self.share is None:
            return None
        if self._comparisons:
            means = [self._better / self._comparisons, self._worse / self._comparisons]
        else:
            means = [_mean(self._liked), _mean(self._disliked)]
        return {
            "preferred_longer": round(self.share, 4),
            "mean_preferred": round(means[0], 1),
            "mean_other": round(means[1], 1),
        }


def _mean(sizes: Counter[int]) -> float:
    return sum(size * count for size, count in sizes.items()) / sizes.total()


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

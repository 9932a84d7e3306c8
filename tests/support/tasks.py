"""Tasks of tests: one loss against a table of reference log-probs."""

from __future__ import annotations

from typing import Any

from preftree.losses.registry import BoundLoss
from preftree.reference.protocol import TableReference
from preftree.reference.store import ReferenceTable
from preftree.train.objective import Objective, WeightedLoss
from preftree.train.preference_task import PreferenceTask
from preftree.train.step.task import Task


def pair_task(loss: BoundLoss, table: ReferenceTable) -> PreferenceTask:
    return PreferenceTask(Objective((WeightedLoss(loss),)), TableReference(table))


class Changed:
    """A task of which some methods or attributes are others."""

    def __init__(self, task: Task, **changes: Any) -> None:
        self._task = task
        self.__dict__.update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

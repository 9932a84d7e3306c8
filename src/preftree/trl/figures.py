"""The log of a run under TRL's names: entries of `state.log_history`, made of the rows of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from preftree.trl.options import TrlSchedule

Names: TypeAlias = Mapping[str, str]

_SIDES = {
    "loss": "loss",
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
    "chosen_rewards": "rewards/chosen",
    "rejected_rewards": "rewards/rejected",
    "chosen_logps": "logps/chosen",
    "rejected_logps": "logps/rejected",
}
NAMES: dict[str, Names] = {
    "dpo": _SIDES,
    "sft": {"loss": "loss"},
    "reward": {"loss": "loss", "accuracy": "accuracy", "margin": "margin"},
    "kto": {
        "loss": "loss",
        "margin": "rewards/margins",
        "desirable_rewards": "rewards/chosen",
        "undesirable_rewards": "rewards/rejected",
        "desirable_logps": "logps/chosen",
        "undesirable_logps": "logps/rejected",
    },
}
"""TRL's name of a figure by ours. TRL's entropy, mean_token_accuracy and logits/* need every logit: there are none."""

_CLOCK = {"grad_norm": "grad_norm", "lr": "learning_rate"}


class Entry(NamedTuple):
    """An entry of the log.

    Attributes:
      kind: `log` of training, `evaluate` of an evaluation, or `step` where nothing is logged.
      step: The step after which it comes.
      epoch: Passes over the data so far.
      figures: The figures under TRL's names.
    """

    kind: str
    step: int
    epoch: float
    figures: dict[str, float]


class LogBook:
    """Entries of a log, row after row: means over the steps since the last entry, as transformers' Trainer logs."""

    def __init__(self, recipe: str, schedule: TrlSchedule) -> None:
        """An empty log.

        Args:
          recipe: `dpo`, `sft`, `reward` or `kto`, which says what figures are called.
          schedule: When entries come.
        """
        self._recipe, self._names, self._schedule = recipe, NAMES[recipe], schedule
        self._window: list[Mapping[str, Any]] = []
        self.losses: list[float] = []
        self.history: list[dict[str, float]] = []

    def add(self, row: Mapping[str, Any]) -> Entry | None:
        """Read a row of metrics; None for one that TRL does not have."""
        step, epoch = int(row["step"]), float(row.get("epoch", 0.0))
        if row.get("split") == "eval":
            if not self._schedule.evaluated(step):
                return None
            figures = {f"eval_{name}": value for name, value in self.named(row).items()}
            return self._kept(Entry("evaluate", step, epoch, figures))
        if "split" in row:
            return None
        self._window.append(row)
        self.losses.append(float(row["loss"]))
        if not self._schedule.logs(step):
            return Entry("step", step, epoch, {})
        means: dict[str, float] = {}
        for name in dict.fromkeys(name for one in self._window for name in self.named(one)):
            values = [figures[name] for one in self._window if name in (figures := self.named(one))]
            means[name] = sum(values) / len(values)
        clock = {theirs: float(row[ours]) for ours, theirs in _CLOCK.items() if ours in row}
        self._window = []
        return self._kept(Entry("log", step, epoch, {"loss": means.pop("loss")} | clock | means))

    def named(self, row: Mapping[str, Any]) -> dict[str, float]:
        """The figures of a row under TRL's names."""
        figures = {theirs: float(row[ours]) for ours, theirs in self._names.items() if ours in row}
        if self._recipe == "reward":
            figures["mean_reward"] = (float(row["chosen_rewards"]) + float(row["rejected_rewards"])) / 2
        return figures

    def _kept(self, entry: Entry) -> Entry:
        self.history.append({**entry.figures, "epoch": entry.epoch, "step": entry.step})
        return entry

"""Recommendation of a setting of a sweep, with the reason and how certain it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from preftree.evaluate.checks.all_checks import diagnoses_in, examine_run
from preftree.evaluate.checks.evidence import is_number
from preftree.run_folder.measured_file import Point
from preftree.run_folder.reader import Run, last_rows
from preftree.stats.intervals import mean_interval

CONFIDENCE = 0.95

LEAST_GAIN = 0.01
"""Share of the gain in reward below which a difference is ignored, however small the noise."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The runs of a sweep that differ in their seed alone; figures are those of the final policies.

    Attributes:
      name: Options of the setting, as `beta=0.1`.
      runs: Finished runs, one a seed.
      faults: Reasons against it: runs that stopped, diagnoses that are failures.
    """

    name: str
    runs: tuple[Run, ...]
    faults: tuple[str, ...] = ()

    def ends(self) -> list[Point]:
        """The last measured point of each run that was measured."""
        return [run.measured.frontier[-1] for run in self.runs if run.measured.frontier]

    def mean(self, name: str) -> float | None:
        """Mean over seeds of a final figure: `reward`, `kl`, or a figure on held-out pairs."""
        values = self._values(name)
        return statistics.fmean(values) if values else None

    def half_width(self, name: str) -> float:
        """Half of the mean's 95 % interval: Student's over seeds, or the one run's own; 0 where nothing tells."""
        values = self._values(name)
        if len(values) > 1:
            interval = mean_interval(np.array(values), confidence=CONFIDENCE)
            return interval.high - interval.value
        ends = self._values(f"{name}_high"), self._values(f"{name}_low")
        return (ends[0][0] - ends[1][0]) / 2 if ends[0] and ends[1] else 0.0

    def _values(self, name: str) -> list[float]:
        if name.startswith(("reward", "kl")):
            figures = [point.model_dump().get(name) for point in self.ends()]
        else:
            figures = [last_rows(run)[1].get(name) for run in self.runs]
        return [float(value) for value in figures if isinstance(value, int | float) and is_number(value)]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The setting to use.

    Attributes:
      setting: Name of the setting; None where the figures give no answer.
      reason: In a sentence or two.
      sure: Whether the figures distinguish it from the others.
      figures: The figures behind it, by setting.
    """

    setting: str | None
    reason: str
    sure: bool = False
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def settings_of(runs: Mapping[str, tuple[Mapping[str, str], Run | str]]) -> list[Setting]:
    """Group runs that differ in the seed alone, in the order of first sight.

    Args:
      runs: For each run's name the options that are varied, and the finished run or the sentence that stopped it.
    """
    groups: dict[str, list[Run]] = {}
    faults: dict[str, list[str]] = {}
    for name, (values, run) in runs.items():
        key = ", ".join(f"{option}={value}" for option, value in values.items() if option != "seed") or "all"
        groups.setdefault(key, [])
        faults.setdefault(key, [])
        if isinstance(run, str):
            faults[key].append(f"{name} stopped: {run}")
            continue
        groups[key].append(run)
        severe = [diagnosis for diagnosis in diagnoses_in(examine_run(run)) if diagnosis.severity == "failure"]
        faults[key] += [f"{name}: {diagnosis.message}" for diagnosis in severe]
    return [Setting(key, tuple(group), tuple(faults[key])) for key, group in groups.items()]


def recommend(settings: Sequence[Setting]) -> Recommendation:
    """The setting to use.

    By final reward where it was measured: of all settings whose reward is within noise of the highest (half intervals
    added in quadrature), the one with the smallest KL, since what is equally good and closer to the reference has
    risked less. Otherwise by held-out accuracy, of all within noise the one whose chosen responses moved least; that
    accuracy does not rank policies well (arXiv:2406.02900) is part of the reason. Runs without pairs go by held-out
    loss. With one seed nothing is sure.
    """
    sound = [setting for setting in settings if setting.runs and not setting.faults]
    if not sound:
        return Recommendation(None, "No run of this sweep ended without a failure.")
    rewarded = [setting for setting in sound if setting.mean("reward") is not None]
    if rewarded:
        return _by(rewarded, "reward", "kl", "reward")
    ranked = [setting for setting in sound if setting.mean("accuracy") is not None]
    if ranked:
        choice = _by(ranked, "accuracy", "chosen_logratio", "held-out accuracy")
        advice = "Accuracy on pairs does not say which policy writes best: give a reward with --reward."
        return replace(choice, reason=f"{choice.reason} {advice}")
    fitted = [setting for setting in sound if setting.mean("loss") is not None]
    if fitted:
        best = min(fitted, key=lambda setting: setting.mean("loss") or 0.0)
        reason = f"{best.name} ends at the lowest held-out loss, {best.mean('loss'):.3f}; give a reward with --reward."
        return Recommendation(best.name, reason)
    return Recommendation(None, "Nothing was measured on held-out pairs or samples; set eval_data, or give --reward.")


def _by(settings: Sequence[Setting], name: str, distance: str, label: str) -> Recommendation:
    def value(setting: Setting, which: str) -> float:
        figure = setting.mean(which)
        return math.inf if figure is None else figure

    best = max(settings, key=lambda setting: value(setting, name))
    top = value(best, name)
    starts = [run.measured.frontier[0].reward for run in best.runs if run.measured.frontier]
    before = statistics.fmean(starts) if name == "reward" and starts else -math.inf
    if top <= before:
        below = f"Every setting ends at a {label} below the start's {before:.3f}"
        return Recommendation(None, f"{below}; the highest is {best.name}, {top:.3f}.")
    least = LEAST_GAIN * (top - before) if math.isfinite(before) else 0.0
    near = [
        setting
        for setting in settings
        if top - value(setting, name) <= max(least, math.hypot(best.half_width(name), setting.half_width(name)))
    ]
    chosen = min(near, key=lambda setting: (abs(value(setting, distance)), settings.index(setting)))
    figures: dict[str, dict[str, float]] = {}
    for setting in settings:
        known = {which: setting.mean(which) for which in (name, distance)}
        figures[setting.name] = {which: figure for which, figure in known.items() if figure is not None}
    what = f"{chosen.name} ends at a {label} of {value(chosen, name):.3f}"
    if math.isfinite(value(chosen, distance)):
        what += f" ({'KL' if distance == 'kl' else 'chosen logratio'} {value(chosen, distance):.2f})"
    if len(near) == 1:
        others = [value(setting, name) for setting in settings if setting is not chosen]
        above = f"{what}, above all others{f' (next {max(others):.3f})' if others else ''}"
        sure = min(len(setting.runs) for setting in settings) > 1
        reason = f"{above}." if sure else f"{above}, with one seed: what another would give is not known."
        return Recommendation(chosen.name, reason, sure, figures)
    rest = ", ".join(f"{setting.name} {value(setting, name):.3f}" for setting in near if setting is not chosen)
    closest = "at the smallest KL" if distance == "kl" else "and its chosen responses moved least"
    reason = f"{what}; within noise of it are {rest}, and it is there {closest}."
    return Recommendation(chosen.name, reason, False, figures)

"""Recommendation of a setting of a sweep, with the reason and how certain it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from preftree.evaluate.checks.all_checks import diagnoses_in, examine_run
from preftree.evaluate.checks.evidence import is_number
from preftree.run_folder.measured_file import Point
from preftree.run_folder.reader import Run, last_rows, split_rows

CONFIDENCE = 0.95

FALSE_CHOICE = 0.01
"""Largest probability that a sweep of settings none of which is better than the start recommends one."""

UNMOVED = 0.01
"""Share of a setting's KL below which another one says nothing of its noise: a policy at its start has none."""

LEAST_GAIN = 0.01
"""Share of the gain in reward below which a difference is ignored, however small the noise."""

NORMAL = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
"""Half of a 95 % interval in standard errors."""


class Noise(NamedTuple):
    """Standard error of a setting's final figure, and the degrees of freedom it was estimated with.

    Attributes:
      error: Over seeds, with their variance pooled over settings, and over prompts where an interval of each run says.
      degrees: Those of the pooled variance; infinite where nothing but an interval over prompts is known.
    """

    error: float
    degrees: float

    def half_width(self) -> float:
        """Half of the 95 % interval."""
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, self.degrees)) * self.error


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

    def mean(self, name: str) -> float | None:
        """Mean over seeds of a final figure: `reward`, `kl`, or a figure on held-out pairs."""
        values = self.values(name)
        return statistics.fmean(values) if values else None

    def start(self, name: str) -> float | None:
        """Mean over seeds of a figure before training; an accuracy is one half, a loss is that of the first batch."""
        if name == "reward":
            values = [run.measured.frontier[0].reward for run in self.runs if run.measured.frontier]
        elif name == "accuracy":
            return 0.5
        else:
            firsts = [split_rows(run)[0][:1] for run in self.runs]
            values = [row[name] for rows in firsts for row in rows if row["step"] == 1 and is_number(row.get(name))]
        return statistics.fmean(values) if values else None

    def values(self, name: str) -> list[float]:
        """The final figure of each run that has it."""
        return [float(value) for found in self._ends(name) if is_number(value := found.get(name))]

    def error_over_prompts(self, name: str) -> float | None:
        """Standard error of a run's figure over prompts, a mean over runs; of a reward, of its gain over the start."""
        errors = [error for found in self._ends(name) if (error := _error_of(found, name)) is not None]
        return statistics.fmean(errors) if errors else None

    def _ends(self, name: str) -> list[Mapping[str, object]]:
        if name not in ("reward", "kl"):
            return [last_rows(run)[1] for run in self.runs]
        return [_end_of(run.measured.frontier) for run in self.runs if run.measured.frontier]


def noise_of(settings: Sequence[Setting], name: str) -> dict[str, Noise | None]:
    """Noise of each setting's mean of a figure, by name; None where a setting has one run, and no other has more.

    Two seeds say next to nothing of a variance, but seeds of all settings together do. Settings that hardly moved do
    not count for one that did.
    """
    values = {setting.name: np.array(setting.values(name)) for setting in settings}
    moved = {setting.name: abs(setting.mean("kl") or 0.0) for setting in settings}
    noise: dict[str, Noise | None] = {}
    for setting in settings:
        least, num, of_prompts = (
            UNMOVED * moved[setting.name],
            len(values[setting.name]),
            setting.error_over_prompts(name),
        )
        pooled = [of_other for other, of_other in values.items() if len(of_other) > 1 and moved[other] >= least]
        degrees = sum(len(of_other) - 1 for of_other in pooled)
        if not num or (not degrees and of_prompts is None):
            noise[setting.name] = None
            continue
        squares = sum(float(((of_other - of_other.mean()) ** 2).sum()) for of_other in pooled)
        error = math.sqrt(squares / max(degrees, 1) / num + (of_prompts or 0.0) ** 2)
        noise[setting.name] = Noise(error, degrees or math.inf)
    return noise


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

    By final reward where it was measured: of the settings that beat the start beyond their noise, the one of smallest
    KL whose reward is within one standard error of their highest, since what is equally good and closer to the
    reference has risked less. Where no setting beats the start, there are not enough seeds. With one seed, the noise is
    that over prompts, and nothing is sure. Otherwise by held-out accuracy, where the start is a coin: the one whose
    chosen responses moved least; that accuracy does not rank policies well (arXiv:2406.02900) is part of the reason.
    Runs without pairs go by held-out loss, against the loss of the first step.

    Source: the rule of one standard error: Breiman et al. 1984, Classification and Regression Trees, Section 3.4.3.
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
        choice = _by(fitted, "loss", None, "held-out loss", sign=-1)
        return replace(choice, reason=f"{choice.reason} A reward, by --reward, says more.")
    return Recommendation(None, "Nothing was measured on held-out pairs or samples; set eval_data, or give --reward.")


def _by(settings: Sequence[Setting], name: str, distance: str | None, label: str, sign: int = 1) -> Recommendation:
    """The setting of the highest `sign` times a figure, or one within its noise at a smaller distance."""

    values = {setting.name: setting.mean(name) or 0.0 for setting in settings}
    starts = {setting.name: setting.start(name) for setting in settings}
    distances = {setting.name: setting.mean(distance) if distance else 0.0 for setting in settings}

    def value(setting: Setting) -> float:
        return values[setting.name]

    def gain(setting: Setting) -> float:
        start = starts[setting.name]
        return -math.inf if start is None else sign * (value(setting) - start)

    def far(setting: Setting) -> float:
        figure = distances[setting.name]
        return math.inf if figure is None else abs(figure)

    noise = noise_of(settings, name)
    best = max(settings, key=lambda setting: sign * value(setting))
    extreme, worse, better = ("highest", "below", "above") if sign > 0 else ("lowest", "above", "below")
    figures = {setting.name: _figures(setting, name, distance) for setting in settings}
    before = starts[best.name]
    if before is None:
        return Recommendation(None, f"No {label} of the start is known to compare with.", False, figures)
    if max(map(gain, settings)) <= 0:
        reason = f"Every setting ends at a {label} {worse} the start's {before:.3f}"
        return Recommendation(None, f"{reason}; the {extreme} is {best.name}, {value(best):.3f}.", False, figures)
    beating = [setting for setting in settings if _beats(gain(setting), noise[setting.name], len(settings))]
    if not beating:
        return Recommendation(None, _too_little(best, name, label, extreme, before, noise[best.name]), False, figures)
    best = max(beating, key=lambda setting: sign * value(setting))
    own = noise[best.name]
    assert own is not None  # it beats the start beyond it
    room = max(own.error, LEAST_GAIN * gain(best) if name == "reward" else 0.0)
    near = [setting for setting in beating if sign * (value(best) - value(setting)) <= room]
    chosen = min(near, key=lambda setting: (far(setting), settings.index(setting))) if distance else best
    what = f"{chosen.name} ends at a {label} of {value(chosen):.3f}"
    if math.isfinite(far(chosen)) and distance:
        what += f" ({'KL' if distance == 'kl' else 'chosen logratio'} {distances[chosen.name]:.2f})"
    seeds = min(len(setting.values(name)) for setting in settings)
    alone = " With one seed, what another would give is not known." if seeds < 2 else ""
    if len(near) > 1 and distance:
        rest = ", ".join(f"{setting.name} {value(setting):.3f}" for setting in near if setting is not chosen)
        closest = "at the smallest KL" if distance == "kl" else "and its chosen responses moved least"
        reason = f"{what}; within noise of it are {rest}, and it is there {closest}.{alone}"
        return Recommendation(chosen.name, reason, False, figures)
    others = [setting for setting in settings if setting is not chosen]
    gaps = {setting.name: sign * (value(chosen) - value(setting)) for setting in others}
    sure = seeds > 1 and all(_apart(gap, noise[chosen.name], noise[other]) for other, gap in gaps.items())
    what += f", {better} all others" if min(gaps.values(), default=1.0) > 0 else ", the best that is beyond its noise"
    next_best = f" (next {sign * max(sign * value(setting) for setting in others):.3f})" if others else ""
    return Recommendation(chosen.name, f"{what}{next_best}.{alone}", sure, figures)


def _beats(gain: float, noise: Noise | None, num: int) -> bool:
    """Whether a gain over the start is beyond its noise, where the best of `num` settings was looked for."""
    if noise is None:
        return False
    return gain > 0 and gain > float(stats.t.ppf(1 - FALSE_CHOICE / num, noise.degrees)) * noise.error


def _apart(gap: float, noise: Noise | None, other: Noise | None) -> bool:
    if noise is None or other is None:
        return False
    both = Noise(math.hypot(noise.error, other.error), min(noise.degrees, other.degrees))
    return gap > both.half_width()


def _too_little(best: Setting, name: str, label: str, extreme: str, before: float, noise: Noise | None) -> str:
    more = "give more seeds (seed=0,1,2,3)"
    ends = f"{best.name} ends at the {extreme} {label}, {best.mean(name):.3f}, where the start has {before:.3f}"
    if noise is None:
        return f"Not enough seeds: {ends}, and one run does not say how much of that is chance; {more}."
    over = "over prompts" if math.isinf(noise.degrees) else "over seeds"
    held_out = " and more prompts" if math.isinf(noise.degrees) else ""
    return f"Not enough seeds: {ends}; the noise {over} is {noise.error:.3f}, too much to tell; {more}{held_out}."


def _figures(setting: Setting, *names: str | None) -> dict[str, float]:
    return {name: figure for name in names if name and (figure := setting.mean(name)) is not None}


def _end_of(frontier: Sequence[Point]) -> dict[str, object]:
    """Figures of a run's last point; the interval of its gain is that of both ends where it was not measured."""
    end, start = frontier[-1].model_dump(), frontier[0].model_dump()
    if "gain_low" not in end and _error_of(end, "reward") is not None:
        both = math.hypot(_error_of(end, "reward") or 0.0, _error_of(start, "reward") or 0.0)
        return end | {"reward_low": end["reward"] - NORMAL * both, "reward_high": end["reward"] + NORMAL * both}
    return end | ({"reward_low": end["gain_low"], "reward_high": end["gain_high"]} if "gain_low" in end else {})


def _error_of(figures: Mapping[str, object], name: str) -> float | None:
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return None
    return float(high - low) / 2 / NORMAL

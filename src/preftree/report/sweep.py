"""The page of a sweep: the recommended setting and the figures behind it."""

from __future__ import annotations

from collections.abc import Sequence

from preftree.evaluate.recommend import Recommendation, Setting, noise_of
from preftree.report import tables
from preftree.report.curves import compared_curves, mean_stretch, tone_of
from preftree.report.first_screen import Conclusion, describe_runs
from preftree.report.numbers import fixed, show
from preftree.report.page import Examined, Page, drawn, examine_all, measured_parts, render_page
from preftree.run_folder.measured_file import Measured, Point
from preftree.run_folder.reader import Run

MOST_TEXTS = 6
_QUESTION = "Which setting should I use?"


def sweep_page(settings: Sequence[Setting], recommended: Recommendation) -> str:
    """The page as HTML: the recommendation, the frontier, a table of settings, curves with a band over seeds."""
    runs = [run for setting in settings for run in setting.runs]
    tones = {run.name: tone_of(index) for index, setting in enumerate(settings) for run in setting.runs}
    fronts = {setting.name: [p for run in setting.runs for p in run.measured.frontier] for setting in settings}
    fronts = {name: points for name, points in fronts.items() if points}
    best = next((setting for setting in settings if setting.name == recommended.setting), None)
    shown = Measured(token_rewards=best.runs[0].measured.token_rewards) if best else Measured()
    return render_page(
        Page(
            title=f"Sweep of {len(settings)} settings",
            kind="Sweep",
            lede=describe_runs(runs, [name for name, _ in tables.differing(runs)]) if runs else "",
            outcome=_outcome(recommended),
            runs=[Examined(item.run, item.results, tones[item.run.name]) for item in examine_all(runs)],
            curves=drawn(compared_curves({setting.name: setting.runs for setting in settings if setting.runs})),
            legend=[(setting.name, tone_of(index)) for index, setting in enumerate(settings)],
            seeded=any(len(setting.runs) > 1 for setting in settings),
            stretch=mean_stretch(runs),
            differing=tables.differing(runs),
            first=[("Settings", *settings_table(settings))],
            notes=[fault for setting in settings for fault in setting.faults],
            texts=_texts(settings),
            world=bool(fronts),
            **measured_parts(shown, fronts, shared_optimum(runs)),
        )
    )


def settings_table(settings: Sequence[Setting]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: final figures of each setting, means over seeds with their 95 % intervals where there are any.

    The variance over seeds is that of all settings together.
    """
    names = {"kl": "KL, nats", "reward": "reward", "accuracy": "held-out accuracy", "loss": "held-out loss"}
    names = {name: head for name, head in names.items() if any(s.mean(name) is not None for s in settings)}
    noises = {name: noise_of(settings, name) for name in names}
    rows = []
    for setting in settings:
        cells = []
        for name in names:
            value, noise = setting.mean(name), noises[name][setting.name]
            ends = f" ± {noise.half_width():.3f}" if noise is not None else ""
            cells.append("" if value is None else fixed(value, 3, sign=False) + ends)
        rows.append([setting.name, str(len(setting.runs)), *cells])
    return ["setting", "runs", *names.values()], rows


def shared_optimum(runs: Sequence[Run]) -> list[Point]:
    """The best possible reward over KL, where a world gives it and it is the same for all runs."""
    known = {run.measured.optimum for run in runs}
    return list(known.pop()) if len(known) == 1 else []


def _outcome(recommended: Recommendation) -> Conclusion:
    unsure = recommended.setting is not None and not recommended.sure
    caveat = "More seeds, prompts or held-out pairs would tell the settings apart." if unsure else ""
    answer = "yes" if recommended.sure else "unclear"
    return Conclusion(answer, recommended.setting or "Not known", recommended.reason, caveat, _QUESTION)


def _texts(settings: Sequence[Setting]) -> tuple[Sequence[str], Sequence[tuple[str, Sequence[tuple[str, str]]]]]:
    """Answers of the reference and of the first run of each setting to the same prompts."""
    runs = {setting.name: setting.runs[0] for setting in settings if setting.runs}
    first = {name: samples for name, run in runs.items() if (samples := run.measured.samples)}
    if not first:
        return (), ()
    base = next(iter(first.values()))
    rows = []
    for index, sample in enumerate(base[:MOST_TEXTS]):
        cells = [(sample.reference, _reward(sample.reference_reward))]
        for samples in first.values():
            same = samples[index] if index < len(samples) and samples[index].prompt == sample.prompt else None
            cells.append((same.policy, _reward(same.policy_reward)) if same else ("", ""))
        rows.append((sample.prompt, cells))
    return ("reference", *first), rows


def _reward(value: float | None) -> str:
    return "" if value is None else f"reward {show(value)}"

"""Learning curves: from the rows of one run, or of several laid over each other, to charts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from preftree.evaluate.checks.evidence import is_number
from preftree.evaluate.checks.traits import traits_of
from preftree.report.charts import MAX_POINTS, Chart, Form, Level, Line, Points, thin
from preftree.report.numbers import Kind, show
from preftree.run_folder.measured_file import Reliability
from preftree.run_folder.reader import Row, Run, split_rows

NUM_RUN_TONES = 8
"""Colours for runs; the ninth has the first one's again."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Figures that belong in one chart.

    Attributes:
      title: Title of the chart.
      fields: (field of a row, label, colour).
      caption: Note for the reader.
      unit: Unit of the vertical axis.
      level: A horizontal line worth knowing.
      kind: Scale of the vertical axis.
      include: Values the vertical axis must show.
    """

    title: str
    fields: tuple[tuple[str, str, str], ...]
    caption: str = ""
    unit: str = ""
    level: Level | None = None
    kind: Kind = "linear"
    include: tuple[float, ...] = ()


_ZERO = Level(0.0, "")


def _single(title: str, field: str, caption: str = "", unit: str = "", *, label: str = "", **more: Any) -> Panel:
    """A panel of one figure; its label is the title unless another is given."""
    return Panel(title, ((field, label or title.lower(), "main"),), caption, unit, **more)


def _sides(title: str, field: str, caption: str, unit: str = "", level: Level | None = None) -> Panel:
    """A panel of a figure of chosen and rejected responses."""
    fields = tuple((f"{side}_{field}", side, side) for side in ("chosen", "rejected"))
    return Panel(title, fields, caption, unit, level)


PANELS = (
    _single("Loss", "loss", unit="nats"),
    _single(
        "Accuracy",
        "accuracy",
        "Share of pairs whose chosen response has the larger reward; of a policy, the implicit one.",
        level=Level(0.5, "a coin"),
    ),
    _single(
        "Margin",
        "margin",
        "Chosen minus rejected reward; the implicit one of a policy is beta × its logratio.",
        level=_ZERO,
    ),
    _sides("Rewards", "rewards", "Of a reward model. Only differences within a prompt mean something.", level=_ZERO),
    _single(
        "Brier score",
        "brier",
        "Mean of (1 - chance that the reward model gives to the label)²; a coin has .25, and 0 is certain and right.",
        label="Brier score",
        level=Level(0.25, "a coin"),
        include=(0.0,),
    ),
    _single(
        "Calibration error",
        "calibration_error",
        "Mean distance between how sure it is and how often it is right, over ten bins.",
        include=(0.0,),
    ),
    _sides(
        "Logratios",
        "logratio",
        "Policy minus reference, apart: a margin can grow while both sides become less likely.",
        "nats",
        _ZERO,
    ),
    _sides("Log-probs", "logps", "Of whole responses under the policy.", "nats"),
    _single("KL to the reference", "kl", "Of whole responses, from the policy's own samples.", "nats", label="KL"),
    _single("Reward", "reward", "By the reward that samples were scored with."),
    _single(
        "Gradient weight",
        "grad_weight",
        "How much a pair still teaches: |d loss / d chosen log-prob| / beta.",
        include=(0.0,),
    ),
    _single("Gradient norm", "grad_norm", "Before clipping.", kind="log"),
    _single("Learning rate", "lr", include=(0.0,)),
    _sides("Response length", "tokens", "Scored tokens of the responses in the data.", "tokens"),
    _single("Response length", "response_tokens", "Scored tokens.", "tokens", label="response"),
    _single("Policy loss", "policy_loss", "Of the clipped surrogate, a token or a response."),
    _single(
        "Critic", "value_loss", "Half the squared distance of values from returns.", label="value loss", include=(0.0,)
    ),
    _single(
        "Explained variance",
        "explained_variance",
        "Of the returns, by the critic's values; 1 is perfect, 0 a constant.",
        level=_ZERO,
    ),
    _single(
        "Step from the policy that sampled",
        "approx_kl",
        "Nats a token, a mean over the updates of an iteration.",
        "nats",
        label="approximate KL",
        include=(0.0,),
    ),
    _single(
        "Clipped", "clip_fraction", "Actions whose gradient the clip took away.", label="share clipped", include=(0.0,)
    ),
    _single("Ended", "finished", "Responses that the model ended itself.", label="share ended", include=(0.0, 1.0)),
    _single(
        "Special tokens",
        "special_tokens",
        "Responses with a special token inside; a reward model judges them without it.",
        label="share with one",
        include=(0.0,),
    ),
    _single("Throughput", "responses_per_second", unit="responses / s", label="responses per second"),
    _single("Throughput", "pairs_per_second", unit="pairs / s", label="pairs per second", include=(0.0,)),
    _single("Throughput", "examples_per_second", unit="rows / s", label="examples per second", include=(0.0,)),
)

NOT_DRAWN = {
    "step",
    "epoch",
    "split",
    "pairs",
    "examples",
    "responses",
    "tokens",
    "error",
    "chosen_rewards",
    "rejected_rewards",
} | {"seconds", "seconds_generating", "seconds_scoring", "seconds_updating"}
"""Positions and counters; implicit rewards, beta x the logratios; beside `ENDS`."""

ENDS = ("_low", "_high")
"""Ends of the names of interval ends, which are drawn with their figures."""


def learning_curves(run: Run) -> list[Chart]:
    """A chart for each panel that the run has figures for, and one for each figure that no panel has."""
    train, held_out = split_rows(run)
    charts = []
    for panel in _panels([run]):
        lines: list[Line] = []
        for name, label, tone in panel.fields:
            means, bands, stretch = thin(_points(train, name))
            if means:
                lines.append(Line(label, means, tone, "line", bands if stretch > 1 else ()))
            if points := _points(held_out, name):
                held_out_tone = "held-out" if tone == "main" else tone
                band = _interval(held_out, name)
                lines.append(Line(f"{label}, held out", points, held_out_tone, "both", band, listed=False))
            if points := _after_training(run, name):
                lines.append(Line(label, points, "main", "both"))
        if lines:
            charts.append(_chart(panel, lines, [run]))
    if run.measured.reliability:
        charts.append(_reliability(run.measured.reliability))
    return charts


def _reliability(bins: Sequence[Reliability]) -> Chart:
    points = [(bin.confidence, bin.right) for bin in bins]
    about = [f"{bin.confidence:.2f} sure, right in {bin.right:.2f}; {bin.share:.0%} of the pairs" for bin in bins]
    return Chart(
        "Reliability",
        (
            Line("as sure as right", [(0.5, 0.5), (1.0, 1.0)], "held-out"),
            Line("held-out pairs", points, "main", "both", about=about),
        ),
        "How often the reward model is right on held-out pairs, by how sure it is.",
        x_name="chance given to the likelier label",
        y_name="share right",
        hover="point",
        include_x=(0.5, 1.0),
        include_y=(0.5, 1.0),
    )


def compared_curves(groups: Mapping[str, Sequence[Run]]) -> list[Chart]:
    """A chart for each figure, all groups laid over each other; held-out figures as points.

    Args:
      groups: Runs by the name of their line; several runs of a group are seeds: their mean is drawn, the band spans the
        lowest and the highest of them.
    """
    every = [run for runs in groups.values() for run in runs]
    charts = []
    for panel in _panels(every):
        for number, (name, label, _) in enumerate(panel.fields):
            lines: list[Line] = []
            for index, (group, runs) in enumerate(groups.items()):
                parts = [split_rows(run) for run in runs]
                measured = [points for run in runs if (points := _after_training(run, name))]
                layers: list[tuple[Form, str, list[Points]]] = [
                    ("line", group, [thin(_points(train, name))[0] for train, _ in parts]),
                    ("dots", f"{group}, held out", [_points(held_out, name) for _, held_out in parts]),
                    ("both", group, measured),
                ]
                for form, title, curves in layers:
                    means, band = _over_seeds(curves)
                    if means:
                        lines.append(Line(title, means, tone_of(index), form, band, listed=title == group))
            if lines:
                title = panel.title if len(panel.fields) == 1 else f"{panel.title}, {label}"
                caption = panel.caption if number == 0 else ""
                charts.append(replace(_chart(panel, lines, every), title=title, caption=caption, legend=False))
    return charts


def without_constants(charts: Sequence[Chart]) -> tuple[list[Chart], list[str]]:
    """The charts of figures that change, and the others in words: a name with its value."""
    changing, constant = [], []
    for chart in charts:
        values = [y for line in chart.lines for _, y in line.points]
        if len(values) > 1 and min(values) == max(values):
            constant.append(f"{chart.title[:1].lower()}{chart.title[1:]} {show(values[0])}")
        else:
            changing.append(chart)
    return changing, constant


def _over_seeds(curves: Sequence[Points]) -> tuple[Points, Points]:
    """Means of several curves at each x, and the extremes; no extremes for one curve."""
    values: dict[float, list[float]] = {}
    for curve in curves:
        for x, y in curve:
            values.setdefault(x, []).append(y)
    means = [(x, sum(ys) / len(ys)) for x, ys in sorted(values.items())]
    return means, [(min(values[x]), max(values[x])) for x, _ in means] if len(curves) > 1 else []


def mean_stretch(runs: Sequence[Run]) -> int:
    """Number of steps in each mean of the longest run's curves."""
    longest = max((len(split_rows(run)[0]) for run in runs), default=0)
    return max(1, math.ceil(longest / MAX_POINTS))


def tone_of(index: int) -> str:
    """The colour of a run."""
    return f"run-{index % NUM_RUN_TONES}"


def _chart(panel: Panel, lines: list[Line], runs: Sequence[Run]) -> Chart:
    """The panel's chart; all charts of some runs span the same steps, so that they can be read against each other."""
    level = _level(panel, runs)
    return Chart(
        panel.title,
        lines,
        panel.caption,
        y_name=panel.unit,
        y_kind=panel.kind,
        levels=(level,) if level else (),
        include_x=(0.0, float(max((run.steps for run in runs), default=0))),
        include_y=panel.include,
    )


def _level(panel: Panel, runs: Sequence[Run]) -> Level | None:
    values = {traits_of(run.config).untrained for run in runs} if panel.title == "Loss" else set()
    if len(values) == 1 and (value := values.pop()) is not None:
        return Level(value, "ln 2: untrained" if value == math.log(2) else f"{show(value)}: untrained")
    return panel.level


def _panels(runs: Sequence[Run]) -> list[Panel]:
    known = {name for panel in PANELS for name, _, _ in panel.fields} | NOT_DRAWN
    figures = (item for run in runs for row in run.rows for item in row.items())
    names = dict.fromkeys(name for name, value in figures if is_number(value))
    others = [name for name in names if name not in known and not _is_end(name, names)]
    with_rewards = any(run.recipe.trains == "reward_model" for run in runs)
    shown = [panel for panel in PANELS if with_rewards or panel.title != "Rewards"]
    return [*shown, *(_single(name.replace("_", " ").capitalize(), name, label=name) for name in others)]


def _is_end(name: str, names: Collection[str]) -> bool:
    """Whether a figure is the end of another one's interval, which is drawn with that one."""
    return any(name.endswith(end) and name.removesuffix(end) in names for end in ENDS)


def _points(rows: Sequence[Row], name: str) -> Points:
    return [(float(row["step"]), float(row[name])) for row in rows if is_number(row.get(name))]


def _interval(rows: Sequence[Row], name: str) -> Points:
    """Ends of each row's confidence interval, where every row has one."""
    ends = tuple(name + end for end in ENDS)
    with_figure = [row for row in rows if is_number(row.get(name))]
    if not all(is_number(row.get(end)) for row in with_figure for end in ends):
        return []
    return [(float(row[ends[0]]), float(row[ends[1]])) for row in with_figure]


def _after_training(run: Run, name: str) -> Points:
    """KL or reward along training, measured afterwards."""
    if name not in ("kl", "reward"):
        return []
    points = [point for point in run.measured.frontier if point.step is not None]
    return sorted((float(point.step or 0), float(getattr(point, name))) for point in points)

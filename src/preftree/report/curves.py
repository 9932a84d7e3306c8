"""Learning curves: from the rows of one run, or of several laid over each other, to charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from preftree.evaluate.checks.evidence import is_number
from preftree.evaluate.checks.traits import traits_of
from preftree.report.charts import MAX_POINTS, Chart, Level, Line, thin
from preftree.report.numbers import Kind, show
from preftree.run_folder.measured_file import Point, Reliability
from preftree.run_folder.reader import Row, Run

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

PANELS = (
    Panel("Loss", (("loss", "loss", "main"),), "", "nats"),
    Panel(
        "Accuracy",
        (("accuracy", "accuracy", "main"),),
        "Share of pairs whose chosen response has the larger reward; of a policy, the implicit one.",
        level=Level(0.5, "a coin"),
    ),
    Panel(
        "Margin",
        (("margin", "margin", "main"),),
        "Chosen minus rejected reward; the implicit one of a policy is beta × its logratio.",
        level=_ZERO,
    ),
    Panel(
        "Rewards",
        (("chosen_rewards", "chosen", "chosen"), ("rejected_rewards", "rejected", "rejected")),
        "Of a reward model. Only differences within a prompt mean something.",
        level=_ZERO,
    ),
    Panel(
        "Brier score",
        (("brier", "Brier score", "main"),),
        "Mean of (1 - chance that the reward model gives to the label)²; a coin has .25, and 0 is certain and right.",
        level=Level(0.25, "a coin"),
        include=(0.0,),
    ),
    Panel(
        "Calibration error",
        (("calibration_error", "calibration error", "main"),),
        "Mean distance between how sure it is and how often it is right, over ten bins.",
        include=(0.0,),
    ),
    Panel(
        "Logratios",
        (("chosen_logratio", "chosen", "chosen"), ("rejected_logratio", "rejected", "rejected")),
        "Policy minus reference, apart: a margin can grow while both sides become less likely.",
        "nats",
        _ZERO,
    ),
    Panel(
        "Log-probs",
        (("chosen_logps", "chosen", "chosen"), ("rejected_logps", "rejected", "rejected")),
        "Of whole responses under the policy.",
        "nats",
    ),
    Panel("KL to the reference", (("kl", "KL", "main"),), "Of whole responses, from the policy's own samples.", "nats"),
    Panel("Reward", (("reward", "reward", "main"),), "By the reward that samples were scored with."),
    Panel(
        "Gradient weight",
        (("grad_weight", "gradient weight", "main"),),
        "How much a pair still teaches: |d loss / d chosen log-prob| / beta.",
        include=(0.0,),
    ),
    Panel("Gradient norm", (("grad_norm", "gradient norm", "main"),), "Before clipping.", kind="log"),
    Panel("Learning rate", (("lr", "learning rate", "main"),), include=(0.0,)),
    Panel(
        "Response length",
        (("chosen_tokens", "chosen", "chosen"), ("rejected_tokens", "rejected", "rejected")),
        "Scored tokens of the responses in the data.",
        "tokens",
    ),
    Panel("Response length", (("response_tokens", "response", "main"),), "Scored tokens.", "tokens"),
    Panel("Policy loss", (("policy_loss", "policy loss", "main"),), "Of the clipped surrogate, a token or a response."),
    Panel(
        "Critic",
        (("value_loss", "value loss", "main"),),
        "Half the squared distance of values from returns.",
        include=(0.0,),
    ),
    Panel(
        "Explained variance",
        (("explained_variance", "explained variance", "main"),),
        "Of the returns, by the critic's values; 1 is perfect, 0 a constant.",
        level=_ZERO,
    ),
    Panel(
        "Step from the policy that sampled",
        (("approx_kl", "approximate KL", "main"),),
        "Nats a token, a mean over the updates of an iteration.",
        "nats",
        include=(0.0,),
    ),
    Panel(
        "Clipped",
        (("clip_fraction", "share clipped", "main"),),
        "Actions whose gradient the clip took away.",
        include=(0.0,),
    ),
    Panel(
        "Ended", (("finished", "share ended", "main"),), "Responses that the model ended itself.", include=(0.0, 1.0)
    ),
    Panel("Throughput", (("responses_per_second", "responses per second", "main"),), unit="responses / s"),
    Panel("Throughput", (("pairs_per_second", "pairs per second", "main"),), unit="pairs / s", include=(0.0,)),
    Panel("Throughput", (("examples_per_second", "examples per second", "main"),), unit="rows / s", include=(0.0,)),
)

# Positions and counters; implicit rewards are beta x the logratios; the interval is drawn with the accuracy.
NOT_DRAWN = frozenset({"step", "epoch", "split", "pairs", "examples", "tokens", "seconds", "error"}) | {
    "chosen_rewards",
    "rejected_rewards",
    "accuracy_low",
    "accuracy_high",
    "reward_low",
    "reward_high",
    "kl_low",
    "kl_high",
    "responses",
    "seconds_generating",
    "seconds_scoring",
    "seconds_updating",
}


def learning_curves(run: Run) -> list[Chart]:
    """A chart for each panel that the run has figures for, and one for each figure that no panel has."""
    train, held_out = _split(run.rows)
    charts, steps = [], _span([run])
    for panel in _panels([run]):
        lines: list[Line] = []
        for name, label, tone in panel.fields:
            means, bands, stretch = thin(_points(train, name))
            if means:
                lines.append(Line(label, means, tone, "line", bands if stretch > 1 else ()))
            points = _points(held_out, name)
            if points:
                band = _interval(held_out, name)
                lines.append(Line(f"{label}, held out", points, _held_out_tone(tone), "both", band, listed=False))
        lines += _measured_lines(panel, run)
        if lines:
            charts.append(_chart(panel, lines, _level(panel, [run]), steps))
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
    charts, steps = [], _span(every)
    for panel in _panels(every):
        for number, (name, label, _) in enumerate(panel.fields):
            lines: list[Line] = []
            for index, (group, runs) in enumerate(groups.items()):
                split = [_split(run.rows) for run in runs]
                train = _over_seeds([thin(_points(rows, name))[0] for rows, _ in split])
                held_out = _over_seeds([_points(rows, name) for _, rows in split])
                after_training = [line for run in runs for line in _measured_lines(panel, run) if line.name == label]
                measured = _over_seeds([list(line.points) for line in after_training])
                tone = tone_of(index)
                if train[0]:
                    lines.append(Line(group, train[0], tone, "line", train[1]))
                if held_out[0]:
                    lines.append(Line(f"{group}, held out", held_out[0], tone, "dots", held_out[1], listed=False))
                if measured[0]:
                    lines.append(Line(group, measured[0], tone, "both", measured[1]))
            if lines:
                title = panel.title if len(panel.fields) == 1 else f"{panel.title}, {label}"
                caption = panel.caption if number == 0 else ""
                charts.append(
                    replace(
                        _chart(panel, lines, _level(panel, every), steps), title=title, caption=caption, legend=False
                    )
                )
    return charts


def _over_seeds(
    curves: Sequence[Sequence[tuple[float, float]]],
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Means of several curves at each x, and the extremes; no extremes for one curve."""
    values: dict[float, list[float]] = {}
    for curve in curves:
        for x, y in curve:
            values.setdefault(x, []).append(y)
    means = [(x, sum(ys) / len(ys)) for x, ys in sorted(values.items())]
    return means, [(min(values[x]), max(values[x])) for x, _ in means] if len(curves) > 1 else []


def mean_stretch(runs: Sequence[Run]) -> int:
    """Number of steps in each mean of the longest run's curves."""
    longest = max((len(_split(run.rows)[0]) for run in runs), default=0)
    return max(1, math.ceil(longest / MAX_POINTS))


def tone_of(index: int) -> str:
    """The colour of a run."""
    return f"run-{index % NUM_RUN_TONES}"


def _chart(panel: Panel, lines: list[Line], level: Level | None, steps: tuple[float, float], title: str = "") -> Chart:
    """The panel's chart; one with another title is among others of the same runs, which share a legend."""
    return Chart(
        title or panel.title,
        lines,
        panel.caption,
        y_name=panel.unit,
        y_kind=panel.kind,
        levels=(level,) if level else (),
        include_x=steps,
        include_y=panel.include,
    )


def _level(panel: Panel, runs: Sequence[Run]) -> Level | None:
    values = {traits_of(run.config).untrained for run in runs} if panel.title == "Loss" else set()
    if len(values) == 1 and (value := values.pop()) is not None:
        return Level(value, "ln 2: untrained" if value == math.log(2) else f"{show(value)}: untrained")
    return panel.level


def _panels(runs: Sequence[Run]) -> list[Panel]:
    known = {name for panel in PANELS for name, _, _ in panel.fields} | NOT_DRAWN
    others = dict.fromkeys(
        name
        for run in runs
        for row in run.rows
        for name, value in row.items()
        if name not in known and is_number(value)
    )
    shown = [
        panel
        for panel in PANELS
        if panel.title != "Rewards" or any(run.recipe.trains == "reward_model" for run in runs)
    ]
    return [*shown, *(Panel(name.replace("_", " ").capitalize(), ((name, name, "main"),)) for name in others)]


def _span(runs: Sequence[Run]) -> tuple[float, float]:
    """The steps that every chart spans, so that they can be read against each other."""
    return 0.0, float(max((run.steps for run in runs), default=0))


def _split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    return [row for row in rows if "split" not in row], [row for row in rows if row.get("split") == "eval"]


def _points(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[name])) for row in rows if is_number(row.get(name))]


def _interval(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    """Ends of each row's confidence interval, where every row has one."""
    ends = (f"{name}_low", f"{name}_high")
    with_figure = [row for row in rows if is_number(row.get(name))]
    if not all(is_number(row.get(end)) for row in with_figure for end in ends):
        return []
    return [(float(row[ends[0]]), float(row[ends[1]])) for row in with_figure]


def _held_out_tone(tone: str) -> str:
    return "held-out" if tone == "main" else tone


def _measured_lines(panel: Panel, run: Run) -> list[Line]:
    """KL and reward along training that were measured afterwards."""
    getters: Mapping[str, str] = {"kl": "KL", "reward": "reward"}
    field = panel.fields[0][0]
    if field not in getters:
        return []
    points = _along_training(run.measured.frontier, field)
    return [Line(getters[field], points, "main", "both")] if points else []


def _along_training(points: Sequence[Point], field: str) -> list[tuple[float, float]]:
    values = [(float(point.step), float(getattr(point, field))) for point in points if point.step is not None]
    return sorted(values)

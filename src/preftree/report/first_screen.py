"""The first screen of a page in words: description, conclusion and headline figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from preftree.evaluate.checks.evidence import WINDOW_SHARE, ends_of, is_number
from preftree.evaluate.checks.traits import traits_of
from preftree.report.numbers import duration, fixed, percent, show
from preftree.run_folder.reader import Row, Run, last_rows, split_rows
from preftree.stats.intervals import Estimate, mean_interval

Answer = Literal["yes", "no", "unclear"]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The answer to the page's question.

    Attributes:
      answer: Answer, which decides the colour.
      word: The answer as text.
      sentence: The figure behind the answer.
      caveat: Limits of that figure.
      question: The question.
    """

    answer: Answer
    word: str
    sentence: str
    caveat: str
    question: str = "Did it work?"


_WORD: Mapping[Answer, str] = {"yes": "Yes", "no": "No", "unclear": "Unclear"}


def conclusion(answer: Answer, sentence: str, caveat: str) -> Conclusion:
    """A conclusion with the standard word for its answer."""
    return Conclusion(answer, _WORD[answer], sentence, caveat)


@dataclass(frozen=True, slots=True)
class Figure:
    """A headline figure: its name, its value, and a value to compare it with."""

    name: str
    value: str
    note: str = ""


def describe_run(run: Run) -> str:
    """A sentence on what was trained."""
    config = run.config
    if not config:
        return f"A run of {run.steps:,} steps; its options are not known."
    path, beta, count = data_path(run), beta_of(run), _count(run)
    how = f"with the loss {run.loss}" + (f" at beta {show(beta)}" if beta is not None else "")
    rows = {
        "demonstrations": path,
        "preferences": f"the preferences of {path} {how}",
        "prompts": f"the reward {config.get('reward')} on the prompts of {path}",
    }
    what = f"{run.recipe.deed} {rows[run.recipe.reads]}"
    seen = f" over {int(count[0]):,} {count[1]}" if count else ""
    optimizer = f"{config.get('optimizer', 'optimiser')} at {show(config.get('lr'))}"
    return f"{config.get('model')}, {what}: {run.steps:,} steps{seen}, {optimizer}, seed {config.get('seed')}."


def beta_of(run: Run) -> float | None:
    """The beta of a run, from either place it may be set in."""
    loss = run.config.get("loss")
    inner = loss.get("beta") if isinstance(loss, Mapping) else None
    beta = run.config.get("beta", None)
    return beta if beta is not None else inner


def conclude_run(run: Run) -> Conclusion:
    """The conclusion on a run, from its own figures."""
    if broken(run):
        return conclusion("no", "Training met figures that are not finite.", "The curves show what came before.")
    judges = {"prompts": _conclude_online, "preferences": _conclude_pairs, "demonstrations": _conclude_sft}
    return judges[run.recipe.reads](run)


def broken(run: Run) -> bool:
    """Whether a figure of the run is not finite, or training stopped because of one."""
    return any(
        "error" in row or any(is_number(value) and not math.isfinite(value) for value in row.values())
        for row in run.rows
    )


def headline(run: Run) -> list[Figure]:
    """The headline figures of a run."""
    train, held_out = last_rows(run)
    row, where = (held_out, "held out") if held_out else (train, "training pairs, last step")
    figures: list[Figure] = []
    if is_number(row.get("accuracy")):
        note = where
        if is_number(row.get("accuracy_low")):
            note = f"{percent(row['accuracy_low'])} to {percent(row['accuracy_high'])}, {where}"
        figures.append(Figure("Accuracy", percent(row["accuracy"]), note))
    if is_number(row.get("margin")):
        figures.append(Figure("Margin", fixed(row["margin"], 2), f"{where}; 0 at the start"))
    if is_number(row.get("loss")):
        coin = traits_of(run.config).untrained
        figures.append(
            Figure("Loss", fixed(row["loss"], 4, sign=False), f"{where}{f'; {coin:.4f} untrained' if coin else ''}")
        )
    if is_number(row.get("chosen_logratio")):
        figures.append(Figure("Chosen", fixed(row["chosen_logratio"], 1), "nats against the reference"))
        figures.append(Figure("Rejected", fixed(row["rejected_logratio"], 1), "nats against the reference"))
    if run.recipe.samples and is_number(row.get("reward")):
        where = "held out" if held_out else "sampled, last step"
        figures.append(Figure("Reward", show(row["reward"]), where))
        figures.append(Figure("KL", show(row["kl"]), "nats to the reference"))
    elif run.measured.frontier:
        last = max(run.measured.frontier, key=lambda point: point.step or 0)
        figures.append(Figure("Reward", show(last.reward), f"at KL {show(last.kl)}"))
    seconds = run.summary.get("training_seconds", train.get("seconds"))
    if is_number(seconds):
        count = _count(run)
        speed = f"{show(count[0] / seconds)} {count[1]} / s" if count and seconds > 0 else ""
        figures.append(Figure("Training", duration(float(seconds)), speed))
    return figures


def _conclude_pairs(run: Run) -> Conclusion:
    train, held_out = last_rows(run)
    caveat = "Ranking pairs is not yet writing better text: compare samples or win rates."
    if run.recipe.trains == "reward_model":
        caveat = "On texts like these: a policy that is trained with these rewards will write others."
    if not is_number(held_out.get("accuracy")):
        if not is_number(train.get("accuracy")):
            return conclusion("unclear", "There are no figures on pairs yet.", "")
        return conclusion(
            "unclear",
            f"{percent(train['accuracy'])} of the last step's training pairs are ranked as labelled.",
            "No pairs were held out, so this may be memory: set eval_data.",
        )
    accuracy = held_out["accuracy"]
    known = ends_of(held_out, "accuracy")
    _, low, high = known or (accuracy, 0.0, 1.0)
    interval = f" (95 % interval {percent(low)} to {percent(high)})" if known else ""
    sentence = f"It ranks {percent(accuracy)} of held-out pairs as labelled{interval}; untrained, it is half of them."
    if low > 0.5:
        return conclusion("yes", sentence, caveat)
    if high < 0.5:
        return conclusion("no", sentence, "")
    return conclusion("unclear", sentence, "The interval holds one half." if known else "Its interval is not known.")


def _conclude_sft(run: Run) -> Conclusion:
    rows, is_held_out = _course(run, "loss")
    if len(rows) < 2:
        return conclusion("unclear", "There are too few figures yet.", "")
    before, after = _ends_of_course(rows, "loss", is_held_out)
    what = "The held-out loss" if is_held_out else "The training loss"
    word = "fell" if after.value < before.value else "rose"
    answer, doubt = _moved(before, after, better=-1)
    return conclusion(
        answer,
        f"{what} {word} from {before.value:.3f} to {after.value:.3f} nats per token.",
        doubt or ("" if is_held_out else "That is on training rows; eval_data and eval_every say more."),
    )


def _conclude_online(run: Run) -> Conclusion:
    """Conclusion by the reward of held-out answers, or of the training samples where there are none."""
    rows, is_held_out = _course(run, "reward")
    if len(rows) < 2:
        return conclusion("unclear", "There are too few figures yet.", "")
    before, after = _ends_of_course(rows, "reward", is_held_out)
    kl = _ends_of_course(rows, "kl", is_held_out)[1].value
    what = "The reward of held-out answers" if is_held_out else "The reward of sampled answers"
    answer, doubt = _moved(before, after, better=1)
    caveat = "A reward can rise for reasons that nobody wanted: read samples, or compare with another judge."
    return conclusion(
        answer,
        f"{what} {'rose' if after.value > before.value else 'fell'} from {show(before.value)} to "
        f"{show(after.value)}, at a KL of {show(kl)} nats to the reference.",
        f"{doubt} {caveat}".strip(),
    )


def _ends_of_course(rows: Sequence[Row], name: str, is_held_out: bool) -> tuple[Estimate, Estimate]:
    """A figure at both ends of a run: of the first and the last evaluation, or over a tenth of the steps.

    Without an interval it is as wide as can be.
    """
    if is_held_out:
        first, last = (ends_of(row, name) or Estimate(row[name], -math.inf, math.inf) for row in (rows[0], rows[-1]))
        return first, last
    values = np.array([row[name] for row in rows], np.float64)
    count = max(1, round(WINDOW_SHARE * len(values)))
    if count < 2:
        return Estimate(values[0], -math.inf, math.inf), Estimate(values[-1], -math.inf, math.inf)
    return mean_interval(values[:count]), mean_interval(values[-count:])


def _moved(before: Estimate, after: Estimate, *, better: Literal[1, -1]) -> tuple[Answer, str]:
    """Whether a figure got better, by intervals that do not meet; and a doubt where they do."""
    if after.low > before.high or after.high < before.low:
        return ("yes" if better * (after.value - before.value) > 0 else "no"), ""
    if math.isinf(before.high) or math.isinf(after.high):
        return "unclear", "How much of that is chance is not known."
    return "unclear", "The intervals of both figures meet."


def _course(run: Run, name: str) -> tuple[list[Row], bool]:
    """Rows that have a figure, and whether they are held out: evaluations where there are two or more, else steps."""
    train, held_out = ([row for row in rows if is_number(row.get(name))] for rows in split_rows(run))
    return (held_out, True) if len(held_out) > 1 else (train, False)


def _count(run: Run) -> tuple[float, str] | None:
    """The number of examples that a run has seen, and their unit."""
    train, _ = last_rows(run)
    known = [unit for unit in ("pairs", "examples", "responses") if is_number(train.get(unit))]
    return (float(train[known[0]]), known[0]) if known else None


def plain(value: Any) -> str:
    """An option or a figure as a table shows it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(item, Mapping) for item in value) else ", ").join(map(plain, value))
    return show(value)


def describe_runs(runs: Sequence[Run], names: Sequence[str]) -> str:
    """A sentence on what is compared."""
    data = {plain(run.config.get("data")) for run in runs if run.config}
    shared = f", all on {data_path(runs[0])}" if len(data) == 1 and runs[0].config else ""
    differences = f" They differ in {', '.join(names[:6])}{' and more' if len(names) > 6 else ''}." if names else ""
    return f"{', '.join(run.name for run in runs)}{shared}.{differences}"


def conclude_runs(runs: Sequence[Run]) -> Conclusion:
    """The run that ranks most held-out pairs as labelled, and whether that is beyond chance."""
    ranked = [(row["accuracy"], run.name, row) for run in runs if is_number((row := last_rows(run)[1]).get("accuracy"))]
    ranked.sort(key=lambda item: -item[0])
    if len(ranked) < 2:
        return Conclusion(
            "unclear", "Unclear", "Fewer than two of these runs have figures on held-out pairs.", "", _WHICH
        )
    accuracy, name, row = ranked[0]
    low = row.get("accuracy_low", 0.0)
    close = [other for _, other, theirs in ranked[1:] if theirs.get("accuracy_high", 1.0) >= low]
    sentence = f"{name} ranks most held-out pairs as labelled: {percent(accuracy)}."
    if not close:
        return Conclusion("yes", name, f"{sentence} The intervals of the others lie below it.", _COMPARED, _WHICH)
    sentence = f"{sentence} Its interval overlaps with that of {in_words(close)}."
    return Conclusion("unclear", "Too close to call", sentence, _COMPARED, _WHICH)


_WHICH = "Which ranks pairs best?"
_COMPARED = "Compare only runs that were evaluated on the same pairs; a higher accuracy need not mean better text."


def in_words(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "no method"


def data_path(run: Run) -> str:
    """The training data of a run, as its options name it."""
    data = run.config.get("data")
    return str(data.get("path") if isinstance(data, Mapping) else data)

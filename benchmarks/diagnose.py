"""Do the checks of `preftree eval diagnose` name what was planted, and nothing in a healthy run?

    python benchmarks/diagnose.py --seeds 0-7 --out runs/diagnose

On a small world with an exact reward, every seed gets a model of its own, preferences between its samples, healthy runs
and runs with a failure planted. Thresholds were fixed on seeds 0-2; the seeds from 3 on are counted. What is done is
found again: a second start only examines. Prints run x check and what the thresholds rest on; writes OUT/matrix.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import pkgutil
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from planted import CASES, SIZES, Case, Size, finished, make_run, place_of
from preftree.evaluate import checks
from preftree.evaluate.checks.all_checks import CHECKS, examine_run
from preftree.evaluate.checks.evidence import gather, lost_share
from preftree.evaluate.checks.high_lr import loss_at_start
from preftree.evaluate.checks.length_exploitation import length_share
from preftree.evaluate.checks.over_optimisation import reward_lost
from preftree.run_folder.reader import Run, read_run
from preftree.storage.atomic import write_atomic

TUNED_ON = range(3)

FIGURES = {
    "lost_share": ("chosen nats lost, share of their cost", "DISPLACED_SHARE", ("beta .01",)),
    "least_lost_share": ("the same, of the side that lost less", "LEFT_SHARE", ("beta .01",)),
    "effective_share": ("effective sample size, share", "EFFECTIVE_SHARE", ("beta .01",)),
    "length_all_pairs": ("margin explained by length", "LENGTH_R2", ("length bias",)),
    "length_as_labelled": ("the same, as labelled", "LENGTH_TREND", ("length bias",)),
    "reward_lost": ("reward lost again, share of the gain", "REWARD_DROP", ("beta .01",)),
    "loss_rise": ("rise of the held-out loss, share", "LOSS_RISE", ("few pairs",)),
    "lost_a_token": ("chosen nats lost, a token", "LOST_A_TOKEN", ("beta .01",)),
    "accuracy_gap": ("training less held-out accuracy, ends", "MEMORISED_GAP", ("memorised", "few pairs")),
    "worst_quarter": ("training loss of a quarter above the start, share", "WORSE_SHARE", ("lr too high",)),
    "grad_weight": ("gradient weight", "SATURATED_WEIGHT", ("deterministic",)),
    "train_accuracy": ("training accuracy", "SATURATED_ACCURACY", ("deterministic",)),
    "learned_nats": ("lowest held-out loss below ln 2 by", "LEARNED_NATS", ("flipped", "held out flipped")),
    "accuracy_high": ("held-out accuracy, upper end", "WEAK_ACCURACY", ("flipped", "held out flipped")),
}
"""Figure: what it is, its threshold, and the runs in which it was planted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/diagnose"))
    parser.add_argument("--seeds", default="0-7", help="such as 0-7, or 3,5")
    parser.add_argument("--size", choices=sorted(SIZES), default="varied")
    parser.add_argument("--cases", help="names of runs, with commas between; all by default")
    options = parser.parse_args()
    size, seeds = SIZES[options.size], parse_seeds(options.seeds)
    wanted = options.cases.split(",") if options.cases else [case.name for case in CASES]
    if unknown := set(wanted) - {case.name for case in CASES}:
        parser.error(f"no such run: {', '.join(sorted(unknown))}")
    cases = [case for case in CASES if case.name in wanted]
    torch.set_num_threads(1)
    logging.getLogger("preftree").setLevel(logging.ERROR)
    disable_progress_bar()  # a line for every model that is loaded, and many are
    make_all(options.out, seeds, cases, size)
    runs = {case.name: {seed: look(place_of(options.out, seed, case)) for seed in seeds} for case in cases}
    counted = [seed for seed in seeds if seed not in TUNED_ON] or seeds
    results = {
        "size": options.size,
        "tuned_on": [seed for seed in seeds if seed in TUNED_ON],
        "counted": counted,
        "thresholds": thresholds(),
        "runs": {name: {str(seed): found for seed, found in per.items()} for name, per in runs.items()},
        "matrix": matrix(runs, counted),
    }
    write_atomic(options.out / "matrix.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    print(
        "\n".join(["", *matrix_lines(cases, results["matrix"], len(counted)), "", *verdict_lines(cases, runs, counted)])
    )
    for title, some in (("tuned on", results["tuned_on"]), ("counted", counted)):
        if some:
            print("\n".join([f"\nSeeds {some}, {title}:", "", *figure_lines(cases, runs, some)]))


def parse_seeds(text: str) -> list[int]:
    """`0-3,7` as numbers."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def make_all(out: Path, seeds: Sequence[int], cases: Sequence[Case], size: Size) -> None:
    """Make the runs that are not there yet, one after the other."""
    left = [(seed, case) for seed in seeds for case in cases if not finished(out, seed, case)]
    steps = sum(size.steps * case.times for _, case in left) + size.sft_steps * len({seed for seed, _ in left})
    print(f"{len(left)} of {len(seeds) * len(cases)} runs to make, about {steps * size.seconds / 60:.0f} minutes")
    began = time.perf_counter()
    for number, (seed, case) in enumerate(left, 1):
        make_run(out, seed, case, size)
        print(f"{time.perf_counter() - began:5.0f} s  {number}/{len(left)}  seed {seed}  {case.name}", flush=True)


def look(folder: Path) -> dict[str, Any]:
    """What the checks found in a run, what they could not look at, and the figures behind the thresholds."""
    run = read_run(folder)
    results = examine_run(run)
    return {
        "found": [one.check.name for one in results if one.diagnosis],
        "missing": [one.check.name for one in results if one.missing],
        "figures": figures_of(run),
    }


def figures_of(run: Run) -> dict[str, float]:
    evidence = gather(run)
    lost = [lost_share(evidence, side) for side in ("chosen", "rejected")]
    length = length_share(evidence)
    losses = [row["loss"] for row in evidence.held_out]
    coin = evidence.traits.untrained
    ratio, tokens = evidence.final("chosen_logratio"), evidence.last("chosen_tokens")
    train, held_out = evidence.over("accuracy", 0.9, 1), evidence.final("accuracy")
    start, quarters = loss_at_start(evidence), [evidence.over("loss", part / 4, (part + 1) / 4) for part in range(4)]
    worst = [quarter.low for quarter in quarters if quarter is not None]
    figures = {
        "lost_share": lost[0],
        "least_lost_share": None if lost[0] is None or lost[1] is None else min(lost[0], lost[1]),
        "effective_share": run.measured.effective_share,
        "length_all_pairs": length and length.all_pairs,
        "length_as_labelled": length and length.as_labelled,
        "reward_lost": reward_lost(evidence),
        "loss_rise": losses[-1] / min(losses) - 1 if losses else None,
        "lost_a_token": ratio and tokens and -ratio.high / tokens,
        "accuracy_gap": train and held_out and train.low - held_out.high,
        "worst_quarter": max(worst) / start - 1 if start and worst else None,
        "grad_weight": evidence.end("grad_weight") if evidence.traits.endless else None,
        "train_accuracy": evidence.end("accuracy"),
        "learned_nats": coin - min(losses) if losses and coin is not None else None,
        "accuracy_high": evidence.last("accuracy_high"),
    }
    return {name: round(float(value), 5) for name, value in figures.items() if value is not None}


def thresholds() -> dict[str, float]:
    """Every constant of the checks that is a number."""
    modules = [import_module(f"{checks.__name__}.{module.name}") for module in pkgutil.iter_modules(checks.__path__)]
    constants = {name: value for module in modules for name, value in vars(module).items() if name.isupper()}
    return {name: value for name, value in sorted(constants.items()) if isinstance(value, int | float)}


def matrix(runs: Mapping[str, Mapping[int, Mapping[str, Any]]], seeds: Sequence[int]) -> dict[str, dict[str, int]]:
    """Run -> check -> in how many seeds it fired."""
    return {
        name: {check.name: sum(check.name in per[seed]["found"] for seed in seeds) for check in CHECKS}
        for name, per in runs.items()
    }


def matrix_lines(cases: Sequence[Case], counts: Mapping[str, Mapping[str, int]], num: int) -> list[str]:
    """The matrix in Markdown; what was planted is bold."""
    lines = [f"| of {num} seeds | " + " | ".join(check.title.lower() for check in CHECKS) + " |"]
    lines.append("|---" * (len(CHECKS) + 1) + "|")
    for case in cases:
        cells = []
        for check in CHECKS:
            count = counts[case.name][check.name]
            cells.append(f"**{count}**" if check.name in case.own else str(count) if count else "")
        lines.append(f"| {case.name} | " + " | ".join(cells) + " |")
    return lines


def verdict_lines(
    cases: Sequence[Case], runs: Mapping[str, Mapping[int, Mapping[str, Any]]], seeds: Sequence[int]
) -> list[str]:
    """Planted failures that were not named, healthy runs that were, and alarms that are beside the point."""
    lines, named, planted, alarms, healthy = [], 0, 0, 0, 0
    for case in cases:
        for seed in seeds:
            found = set(runs[case.name][seed]["found"])
            beside = sorted(found - {*case.own, *case.also})
            planted, healthy = planted + bool(case.own), healthy + (not case.own)
            named, alarms = named + bool(found & set(case.own)), alarms + bool(found and not case.own)
            if case.own and not found & set(case.own):
                lines.append(f"not named: seed {seed}, {case.name}")
            if beside:
                lines.append(f"beside the point: seed {seed}, {case.name}: {', '.join(beside)}")
    return [f"named {named} of {planted} planted failures; {alarms} of {healthy} healthy runs have an alarm", *lines]


def figure_lines(
    cases: Sequence[Case], runs: Mapping[str, Mapping[int, Mapping[str, Any]]], seeds: Sequence[int]
) -> list[str]:
    """What each threshold rests on: the span of its figure over healthy runs, and over those with its failure."""
    limits, lines = thresholds(), ["| figure | healthy | planted | in | threshold |", "|---|---|---|---|---|"]
    for name, (what, constant, planted) in FIGURES.items():
        spans = []
        for some in ([case for case in cases if not case.own], [case for case in cases if case.name in planted]):
            found = [runs[case.name][seed]["figures"].get(name) for case in some for seed in seeds]
            values = np.array([value for value in found if value is not None])
            spans.append(f"{values.min():.2g} to {values.max():.2g}" if len(values) else "")
        lines.append(f"| {what} | {spans[0]} | {spans[1]} | {', '.join(planted)} | `{constant}` {limits[constant]:g} |")
    return lines


if __name__ == "__main__":
    main()

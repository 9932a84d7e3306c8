"""`preftree eval temperature`: win rates over sampling temperatures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preftree.cli.shared import (
    SIDE,
    BatchSize,
    Judge,
    MaxCost,
    MaxNewTokens,
    NumPrompts,
    Precision,
    Prompts,
    Samples,
    Seed,
    TopP,
    announce,
    judging,
    print_table,
    reserve,
    sample_files,
)
from preftree.cli.winrate import ANOTHER_OUT, check_world, warn_of_equal_draws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from preftree.evaluate.answers import Side
    from preftree.evaluate.temperature import Curves
    from preftree.worlds.grammar import World

FEW_PROMPTS = 20
"""Number of prompts below which the bootstrap of a drop is too narrow."""


def temperature(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL [MODEL ...]", help="Models' or runs' folders, hub ids.")
    ],
    baseline: Annotated[str, typer.Option(help=f"{SIDE}; or `chosen`: the answers in PROMPTS.")],
    prompts: Prompts,
    judge: Judge,
    temperatures: Annotated[str, typer.Option(help="Two or more, with commas.")] = "0,.25,.5,.75,1",
    baseline_temperature: Annotated[
        float, typer.Option(min=0, help="Temperature of a baseline that is a model.")
    ] = 1.0,
    samples: Samples = 1,
    num_prompts: NumPrompts = None,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    precision: Precision = "fp32",
    max_cost: MaxCost = None,
    out: Annotated[Path, typer.Option(help="Folder for responses, figures and the page.")] = Path("temperature"),
) -> None:
    """Win rate of each model's responses over the baseline's, at each sampling temperature.

    With 95 % intervals by prompt, the area under each curve and its drop from the best to the last temperature. In a
    world whose responses can be enumerated, with itself as the judge and models on both sides, the figures are exact
    and the options on samples do not count. The page is OUT/temperature.html.
    """
    announce(f"win rates of {', '.join(models)} over {baseline}, judged by {judge}")
    import json
    from dataclasses import replace

    from rich.table import Column

    from preftree.errors import ConfigError
    from preftree.evaluate.answers import collect_answers, find_sides, read_questions
    from preftree.evaluate.temperature import sampled_curves
    from preftree.generate.protocol import Sampling
    from preftree.judges.canaries import require_canaries
    from preftree.judges.kinship import warnings_of
    from preftree.judges.llm.bill import Asking
    from preftree.judges.pairwise import load_judge
    from preftree.report.page import write_page
    from preftree.report.temperature import figures_table, temperature_page
    from preftree.runtime.logs import quiet_transformers
    from preftree.storage.atomic import write_result

    asking = Asking(max_cost)
    judged_by = load_judge(judge, asking)
    values = read_temperatures(temperatures)
    policies = find_sides(models)
    for side in policies:
        if side.kind != "model":
            raise ConfigError(f"{side.place} cannot be sampled at temperatures; give models, and it as the --baseline")
    (other,) = find_sides([baseline])
    if other.kind == "model":
        other = replace(other, name=f"{other.name} at T {baseline_temperature:g}")
    questions = read_questions(prompts, most=num_prompts, seed=seed)
    limit = check_world(judge, prompts, questions, max_new_tokens)
    world = countable_world(judge, other, limit, top_p)
    texts = [prompt.text for prompt in questions]
    for warning in warnings_of(judge, [(side.name, side.place) for side in (*policies, other) if side.kind == "model"]):
        typer.echo(f"warning: {warning}", err=True)
    reserve(out)
    quiet_transformers()
    with judging(asking):
        require_canaries(judged_by)
    if world is not None:
        curves = exactly(world, [str(text) for text in texts], values, policies, other, baseline_temperature, judge)
    else:
        ways = [Sampling(limit, value, top_p, seed) for value in values]
        base_way = Sampling(limit, baseline_temperature, top_p, seed + 1)  # other random numbers
        warn_of_equal_draws([policies[0], other], [ways[-1], base_way], len(questions), samples)
        with sample_files(out, samples, batch_size, precision) as how:
            (base,) = collect_answers(other, prompts, questions, [base_way], how)
            drawn = [collect_answers(side, prompts, questions, ways, how) for side in policies]
        answers_of = {side.name: answers for side, answers in zip(policies, drawn, strict=True)}
        with judging(asking):
            curves = sampled_curves(judged_by, texts, values, answers_of, base, seed=seed)
    figures = {
        "baseline": curves.baseline,
        "baseline_temperature": baseline_temperature if other.kind == "model" else None,
        "judge": curves.judge,
        "exact": curves.pairs is None,
        "prompts": curves.prompts,
        "pairs": curves.pairs,
        "prompts_file": prompts,
        "temperature": [point.model_dump() for point in curves.points],
        "temperature_figure": "win rate",
        "robustness": [
            {"name": curve.name, "area": curve.area._asdict(), "best_at": curve.best_at, "drop": curve.drop._asdict()}
            for curve in curves.robustness
        ],
    }
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    write_result(out / "temperature.json", text, advice=ANOTHER_OUT)
    write_page(out / "temperature.html", temperature_page(curves), advice=ANOTHER_OUT)
    heads, rows = figures_table(curves)
    basis = f"{curves.pairs} pairs each, 95 % intervals over {curves.prompts} prompts"
    if curves.pairs is None:
        basis = f"exact, {curves.prompts} prompts"
    print_table(
        [Column(head, overflow="fold") for head in heads],
        [[cell.replace(" [", "\n[") for cell in row] for row in rows],
        title=f"win rate against {curves.baseline}, judged by {curves.judge}; {basis}",
    )
    if curves.pairs is not None and curves.prompts < FEW_PROMPTS:
        typer.echo(
            f"warning: {curves.prompts} prompts are few: the interval of a drop over fewer than {FEW_PROMPTS} is too "
            "narrow",
            err=True,
        )
    typer.echo(f"{out / 'temperature.html'} has the curves, {out / 'temperature.json'} the figures", err=True)


def read_temperatures(text: str) -> list[float]:
    """Temperatures from a list with commas, rising.

    Raises:
      ConfigError: fewer than two different ones, or one is no number >= 0.
    """
    import math

    from preftree.errors import ConfigError

    try:
        values = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        values = []
    if len(values) < 2 or not all(math.isfinite(value) and value >= 0 for value in values):
        raise ConfigError(f"--temperatures must be two or more numbers >= 0 with commas between, got {text!r}")
    return values


def countable_world(judge: str, baseline: Side, limit: int, top_p: float) -> World | None:
    """The world whose figures can be exact; None where samples are needed."""
    from preftree.judges.functions import find_world
    from preftree.worlds.grammar import MOST_OUTCOMES

    world = find_world(judge)
    if world is None or world.num_outcomes > MOST_OUTCOMES or baseline.kind != "model" or top_p < 1:
        return None
    return world if limit == world.max_words else None


def exactly(
    world: World,
    prompts: Sequence[str],
    temperatures: Sequence[float],
    policies: Sequence[Side],
    baseline: Side,
    baseline_temperature: float,
    judge: str,
) -> Curves:
    """The curves without samples; one model in memory at a time."""
    from preftree.evaluate.temperature import exact_curves, policy_table
    from preftree.models.load import load_model, load_tokenizer
    from preftree.runtime.machine import best_device

    def tables(side: Side, values: Sequence[float]) -> list[Any]:
        model, tokenizer = load_model(side.place, device=best_device()), load_tokenizer(side.place)
        return [policy_table(model, tokenizer, world, value) for value in values]

    (base,) = tables(baseline, [baseline_temperature])
    tables_of = {side.name: tables(side, temperatures) for side in policies}
    return exact_curves(world, prompts, temperatures, tables_of, (baseline.name, base), judge=judge)

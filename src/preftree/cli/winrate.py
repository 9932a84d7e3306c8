"""`preftree eval winrate`: win rate of one side's responses over another's."""

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
    SamplingTemperature,
    Seed,
    TopP,
    announce,
    judging,
    print_table,
    reserve,
    sample_files,
    with_interval,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from preftree.data.prompts import Prompt
    from preftree.evaluate.winrate import WinRate

DEFAULT_NEW_TOKENS = 256
ANOTHER_OUT = "give another --out"


def winrate(
    a: Annotated[str, typer.Argument(metavar="A", help=f"{SIDE}.")],
    b: Annotated[str, typer.Argument(metavar="B", help=f"{SIDE}; or `chosen`: the answers in PROMPTS.")],
    prompts: Prompts,
    judge: Judge,
    samples: Samples = 1,
    num_prompts: NumPrompts = None,
    temperature: SamplingTemperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    precision: Precision = "fp32",
    max_cost: MaxCost = None,
    out: Annotated[Path, typer.Option(help="Folder for responses, verdicts and figures.")] = Path("winrate"),
) -> None:
    """Win rate of A's responses over B's: ties count half, with a 95 % interval by prompt.

    Responses are drawn into OUT/responses and used again; the verdicts are a preference file, OUT/verdicts.jsonl.
    After Ctrl-C, the same command continues where it stopped. A language model as judge is shown canaries first, and
    its answers are kept in the cache.
    """
    announce(f"win rate of {a} over {b}, judged by {judge}")
    import json

    from preftree.evaluate.answers import collect_answers, find_sides, read_questions
    from preftree.evaluate.winrate import count_wins, judge_pairs, preference_rows
    from preftree.generate.protocol import Sampling
    from preftree.judges.canaries import show_canaries
    from preftree.judges.kinship import warnings_of
    from preftree.judges.llm.bill import Asking
    from preftree.judges.pairwise import load_judge
    from preftree.runtime.logs import quiet_transformers
    from preftree.storage.atomic import write_result

    asking = Asking(max_cost)
    judged_by = load_judge(judge, asking)
    sides = find_sides([a, b])
    questions = read_questions(prompts, most=num_prompts, seed=seed)
    limit = check_world(judge, prompts, questions, max_new_tokens)
    # Each side has other random numbers: equal ones would make two samples of one model the same text.
    ways = [Sampling(limit, temperature, top_p, seed + index) for index in range(2)]
    warn_of_equal_draws(sides, ways, len(questions), samples)

    for warning in warnings_of(judge, [(side.name, side.place) for side in sides if side.kind == "model"]):
        typer.echo(f"warning: {warning}", err=True)
    reserve(out)
    quiet_transformers()
    with judging(asking):
        canaries = show_canaries(judged_by)
    with sample_files(out, samples, batch_size, precision) as how:
        first, second = (
            collect_answers(side, prompts, questions, [way], how)[0] for side, way in zip(sides, ways, strict=True)
        )
    texts = [prompt.text for prompt in questions]
    with judging(asking):
        pairs = judge_pairs(judged_by, texts, first, second)
    win_rate = count_wins(judged_by, first, second, pairs, canaries)
    figures = win_rate.as_json() | {
        "prompts_file": prompts,
        "samples": samples,
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": limit,
        "seed": seed,
        "bill": asking.bill.as_json() if canaries is not None else None,
    }
    rows = preference_rows(texts, pairs, (first.name, second.name), judged_by.name)
    verdicts = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_result(out / "verdicts.jsonl", verdicts, advice=ANOTHER_OUT)
    write_result(out / "winrate.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n", advice=ANOTHER_OUT)
    title = f"{win_rate.a} against {win_rate.b}, judged by {win_rate.judge}"
    print_table([], _described(win_rate), soft_wrap=True, title=title, show_header=False)
    typer.echo(f"{out / 'winrate.json'} has the figures, {out / 'verdicts.jsonl'} the verdicts", err=True)


def check_world(judge: str, path: str, prompts: Sequence[Prompt], max_new_tokens: int | None) -> int:
    """Most tokens of a response; a world judges its own prompts only, and says how long its responses are.

    Raises:
      DataError: a prompt is not one of the world's.
    """
    from preftree.errors import DataError
    from preftree.judges.functions import find_world

    world = find_world(judge)
    if world is None:
        return max_new_tokens or DEFAULT_NEW_TOKENS
    if odd := [prompt for prompt in prompts if prompt.text not in world.prompts]:
        raise DataError(
            f"judge {judge!r} knows its own prompts only, and {path} asks {str(odd[0].text)[:60]!r} ({odd[0].where}); "
            "take those out, or give another judge"
        )
    return max_new_tokens or world.max_words


def warn_of_equal_draws(sides: Sequence[Any], ways: Sequence[Any], num_prompts: int, samples: int) -> None:
    """Say so where two sides were drawn with the same random numbers."""
    import logging

    from preftree.evaluate.answers import draws_of

    draws = [draws_of(side, num_prompts, samples, way) for side, way in zip(sides, ways, strict=True)]
    if draws[0] is not None and draws[0] == draws[1]:
        logging.getLogger("preftree").warning(
            "%s and %s were drawn with the same random numbers (seed %s), so their responses are alike by chance; draw "
            "one of them with another --seed",
            sides[0].name,
            sides[1].name,
            draws[0][0],
        )


def _described(win_rate: WinRate) -> list[tuple[str, str]]:
    """The figures as rows of a table."""
    counts = f"{win_rate.wins} won, {win_rate.ties} tied, {win_rate.losses} lost, of {win_rate.pairs}"
    if win_rate.identical:
        counts += f"; {win_rate.identical} ties are of identical texts"
    order = "each pair was judged once: this judge sees one response at a time"
    if win_rate.orders > 1:
        order = f"each pair was shown in both; {_agreement(win_rate)}"
    over = f"over {win_rate.prompts} prompts"
    rows = [("win rate", f"{with_interval(*win_rate.rate)}  95 % interval {over}, ties count half")]
    if win_rate.refused:
        rows = [("win rate", f"none: {win_rate.refused[0]}"), *(("", reason) for reason in win_rate.refused[1:])]
    rows += [("pairs", counts), ("order", order)]
    if unknown := win_rate.verdicts["invalid"] + win_rate.verdicts["failed"]:
        share = f"{unknown} of {sum(win_rate.verdicts.values())} verdicts count half"
        bounds = f"all lost {win_rate.rate_low:.3f}, all won {win_rate.rate_high:.3f}"
        whats = ", ".join(f"{count} {what}" for what, count in win_rate.unread.items())
        rows.append(("unknown", f"{share} ({whats}); {bounds}"))
    if win_rate.canaries is not None:
        rows += [("canaries" if not place else "", line) for place, line in enumerate(win_rate.canaries.lines())]
    rows.append(("length", f"{win_rate.characters_a:.0f} characters, and {win_rate.characters_b:.0f} of {win_rate.b}"))
    similar = f"{win_rate.similar_pairs} pairs are of similar length, too few for a win rate"
    if win_rate.similar is not None:
        similar = f"{with_interval(*win_rate.similar)}  among the {win_rate.similar_pairs} pairs of similar length"
    rate, reason = win_rate.controlled.rate, win_rate.controlled.reason
    at_equal = f"not identifiable: {reason}"
    if rate is not None:
        at_equal = f"{with_interval(*rate)}  at equal length and with no preferred side, by regression over all pairs"
    if not win_rate.refused:
        rows += [("", similar), ("", at_equal)]
    for name, share in ((win_rate.a, win_rate.finished_a), (win_rate.b, win_rate.finished_b)):
        if share is not None and share < 1:
            rows.append(("cut", f"{1 - share:.1%} of the responses of {name}, at the limit of their tokens"))
    return rows


def _agreement(win_rate: WinRate) -> str:
    """Agreement of a judge's verdicts over both orders."""
    if win_rate.agreement is None or win_rate.left_rate is None:
        return "no pair of different texts has two verdicts that can be read"
    return f"{win_rate.agreement:.1%} had one verdict in both, the left one won {win_rate.left_rate:.1%}"

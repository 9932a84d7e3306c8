"""`preftree eval winrate`: win rate of one side's responses over another's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from preftree.cli.frontier import REWARD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from preftree.data.prompts import Prompt
    from preftree.evaluate.answers import SampleFiles
    from preftree.evaluate.winrate import WinRate

JUDGE = f"A reward model's folder, {REWARD}"
SIDE = "A model's or a run's folder, a hub id, or a file that `preftree generate` wrote"
Prompts = Annotated[str, typer.Option(help="A data file with a `prompt` in each row, or a .txt file.")]
NumPrompts = Annotated[
    int | None,
    typer.Option(min=2, help="Maximum number of prompts, chosen by seed.  [default: all]", show_default=False),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Maximum tokens of a response.  [default: 256, or the world's]", show_default=False),
]
TopP = Annotated[float, typer.Option(help="Sample from the fewest tokens with this total probability.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the samples and of the bootstrap.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Number of responses generated at once.")]
Precision = Annotated[Literal["fp32", "bf16"], typer.Option(help="Precision of the weights.")]
DEFAULT_NEW_TOKENS = 256
FEW_PROMPTS = 20
"""Number of prompts below which a bootstrap over prompts is too narrow."""


def winrate(
    a: Annotated[str, typer.Argument(metavar="A", help=f"{SIDE}.")],
    b: Annotated[str, typer.Argument(metavar="B", help=f"{SIDE}; or `chosen`: the answers in PROMPTS.")],
    prompts: Prompts,
    judge: Annotated[str, typer.Option(help=JUDGE)],
    samples: Annotated[int, typer.Option(min=1, help="Responses to each prompt.")] = 1,
    num_prompts: NumPrompts = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most likely token.")] = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    precision: Precision = "fp32",
    out: Annotated[Path, typer.Option(help="Folder for responses, verdicts and figures.")] = Path("winrate"),
) -> None:
    """Win rate of A's responses over B's: ties count half, with a 95 % interval by prompt.

    Responses are drawn into OUT/responses and used again; the verdicts are a preference file, OUT/verdicts.jsonl.
    After Ctrl-C, the same command continues where it stopped.
    """
    import json

    from rich.console import Console

    from preftree.evaluate.answers import collect_answers, find_sides, read_questions
    from preftree.evaluate.winrate import count_wins, judge_pairs, preference_rows
    from preftree.generate.protocol import Sampling
    from preftree.judges.pairwise import load_judge

    judged_by = load_judge(judge)
    sides = find_sides([a, b])
    questions = read_questions(prompts, most=num_prompts, seed=seed)
    limit = check_world(judge, prompts, questions, max_new_tokens)
    # Each side has other random numbers: equal ones would make two samples of one model the same text.
    ways = [Sampling(limit, temperature, top_p, seed + index) for index in range(2)]
    warn_of_equal_draws(sides, ways, len(questions), samples)

    def draw(how: SampleFiles) -> list[Any]:
        return [collect_answers(side, prompts, questions, [way], how)[0] for side, way in zip(sides, ways, strict=True)]

    first, second = drawing(draw, out, samples=samples, batch_size=batch_size, precision=precision)
    texts = [prompt.text for prompt in questions]
    pairs = judge_pairs(judged_by, texts, first, second)
    win_rate = count_wins(judged_by, first, second, pairs, seed=seed)
    figures = win_rate.as_json() | {
        "prompts_file": prompts,
        "samples": samples,
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": limit,
        "seed": seed,
    }
    rows = preference_rows(texts, pairs, (first.name, second.name))
    write(out / "verdicts.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write(out / "winrate.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    Console(markup=False, highlight=False, soft_wrap=True).print(describe(win_rate))
    if win_rate.prompts < FEW_PROMPTS:
        typer.echo(few(win_rate.prompts), err=True)
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


def drawing(
    work: Callable[[SampleFiles], list[Any]], out: Path, *, samples: int, batch_size: int, precision: str
) -> list[Any]:
    """Call a function that draws responses, with a progress bar for each file and a stop at Ctrl-C."""
    from rich.console import Console
    from rich.progress import Progress

    from preftree.evaluate.answers import Interrupted, SampleFiles
    from preftree.runtime.logs import quiet_transformers
    from preftree.runtime.signals import stop_on_signals

    quiet_transformers()
    with Progress(console=Console(stderr=True)) as bar, stop_on_signals() as request:
        tasks: dict[str, Any] = {}

        def show(name: str, rows: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=rows)

        how = SampleFiles(out / "responses", samples, batch_size, precision, lambda: request.signum, show)
        try:
            return work(how)
        except Interrupted:
            raise typer.Exit(128 + request.signum) from None


def write(path: Path, content: str) -> None:
    """Write a file, and make its folder.

    Raises:
      DataError: it cannot be written.
    """
    from preftree.errors import DataError
    from preftree.storage.atomic import write_atomic

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); give another --out") from error


def describe(win_rate: WinRate) -> Any:
    """The figures as a table for the terminal."""
    from rich.table import Table

    table = Table(
        title=f"{win_rate.a} against {win_rate.b}, judged by {win_rate.judge}", title_justify="left", show_header=False
    )
    over = f"over {win_rate.prompts} prompts"
    table.add_row("win rate", f"{interval(win_rate.rate)}  95 % interval {over}, ties count half")
    counts = f"{win_rate.wins} won, {win_rate.ties} tied, {win_rate.losses} lost, of {win_rate.pairs}"
    if win_rate.identical:
        counts += f"; {win_rate.identical} ties are of identical texts"
    table.add_row("pairs", counts)
    if win_rate.orders == 1:
        table.add_row("order", "each pair was judged once: this judge sees one response at a time")
    else:
        table.add_row("order", f"each pair was shown in both; {agreed(win_rate)}")
    if win_rate.invalid:
        table.add_row("invalid", f"{win_rate.invalid} verdicts could not be read, and count half")
    table.add_row("length", f"{win_rate.characters_a:.0f} characters, and {win_rate.characters_b:.0f} of {win_rate.b}")
    if win_rate.similar is not None:
        table.add_row("", f"{interval(win_rate.similar)}  among the {win_rate.similar_pairs} pairs of similar length")
    else:
        table.add_row("", f"{win_rate.similar_pairs} pairs are of similar length, too few for a win rate")
    for name, share in ((win_rate.a, win_rate.finished_a), (win_rate.b, win_rate.finished_b)):
        if share is not None and share < 1:
            table.add_row("cut", f"{1 - share:.1%} of the responses of {name}, at the limit of their tokens")
    return table


def few(num: int) -> str:
    """A warning about intervals over few prompts."""
    return f"warning: {num} prompts are few: intervals over fewer than {FEW_PROMPTS} are too narrow"


def agreed(win_rate: WinRate) -> str:
    """Agreement of a judge's verdicts over both orders."""
    if win_rate.agreement is None or win_rate.left_rate is None:
        return "all pairs are of identical texts"
    return f"{win_rate.agreement:.1%} had one verdict in both, the left one won {win_rate.left_rate:.1%}"


def interval(estimate: Any) -> str:
    """A share with the ends of its interval."""
    return f"{estimate.value:.3f}  [{estimate.low:.3f}, {estimate.high:.3f}]"

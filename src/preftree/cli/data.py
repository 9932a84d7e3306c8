"""`preftree data inspect | convert | cut | rank`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from preftree.cli.shared import AsJson, Judge, MaxCost, judging, progress_bar, whole_number
from preftree.errors import DataError

if TYPE_CHECKING:
    from preftree.data.rows.faults import Tally
    from preftree.data.tools.near_repeats import NearRepeats
    from preftree.data.tools.token_view import TokenView

app = typer.Typer(no_args_is_help=True)


Source = Annotated[str, typer.Argument(metavar="FILE", help="A data file, a folder of them, or a hub id.")]
Format = Annotated[str | None, typer.Option("--format", help="Read the rows as this format.", show_default="detected")]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET=FIELD,...",
        help="What fields are, in place of a format: prompt=question,chosen=best,rejected=worst.",
        show_default=False,
    ),
]
Kind = Annotated[
    Literal["pair", "list", "response", "demonstration"] | None,
    typer.Option(
        "--kind",
        help="Turn the rows into pairs, lists (rankings), single responses with labels, or demonstrations.",
        show_default=False,
    ),
]
NumRows = Annotated[
    int | None, whole_number(min=1, help="Most rows to write, chosen by seed.  [default: all]", show_default=False)
]
MaxRejected = Annotated[float, typer.Option(min=0, max=1, help="Share of faulty rows above which nothing is written.")]
Chosen = Annotated[
    Literal["chosen"] | None,
    typer.Option("--side", help="With --kind demonstration: imitate this side.", show_default=False),
]


@app.callback()
def _root() -> None:
    """Look at data files, convert them, cut prompts, rank samples."""


@app.command("inspect")
def inspect(
    file: Source,
    as_json: AsJson = False,
    format_name: Format = None,
    columns: Columns = None,
    kind: Kind = None,
    side: Chosen = None,
    near_repeats: Annotated[
        bool, typer.Option("--near-repeats", help="Count rows that are nearly an earlier one, half a millisecond each.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="A model's folder or hub id: show tokens, and rows through its chat template.")
    ] = None,
    max_length: Annotated[
        list[int] | None,
        whole_number(min=2, help="With --model: count rows that are longer; may be repeated.", show_default=False),
    ] = None,
    turns: Annotated[
        Literal["last", "all"], typer.Option(help="With --model: turns of a demonstration that are scored.")
    ] = "last",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="With --model: write a page as well.")] = None,
) -> None:
    """Show the detected format, counts, faults by file and line, and one record; with --model, tokens and templates."""
    import json

    from preftree.data.rows.columns import parse_columns
    from preftree.data.tools.inspect import inspect_file

    mapping = None if columns is None else parse_columns(columns)
    view = None if model is None else _token_view(model, file, max_length or [], turns)
    if view is None and (max_length or html is not None or turns != "last"):
        raise typer.BadParameter("--max-length, --turns and --html count tokens, so they need --model")
    inspection = inspect_file(
        file,
        format_name=format_name,
        columns=mapping,
        kind=kind,
        chosen_side=side is not None,
        near_repeats=_near_repeats() if near_repeats else None,
        view=view,
    )
    if html is not None:
        from preftree.cli.data_page import write_inspection

        write_inspection(html, inspection)
    if as_json:
        typer.echo(json.dumps(inspection.as_json()))
    else:
        from preftree.cli.data_view import print_inspection

        print_inspection(inspection)
    if inspection.tally.rows and inspection.tally.rows == inspection.tally.num_rejected:
        raise DataError(f"{file}: every row is rejected, the first since {inspection.tally.rejected[0].message}")


def _near_repeats() -> NearRepeats:
    from preftree.data.tools.near_repeats import NearRepeats

    return NearRepeats()


def _token_view(model: str, file: str, max_lengths: list[int], turns: Literal["last", "all"]) -> TokenView:
    from preftree.data.tools.token_view import TokenView
    from preftree.models.load import load_tokenizer
    from preftree.runtime.logs import quiet_transformers
    from preftree.train.step_model import model_at

    quiet_transformers()
    return TokenView(load_tokenizer(model_at(model)), file, sorted(set(max_lengths)), turns)


@app.command("convert")
def convert(
    file: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The file to write.")],
    format_name: Format = None,
    columns: Columns = None,
    kind: Kind = None,
    side: Chosen = None,
    max_turns: Annotated[
        int | None,
        whole_number(min=1, help="Leave out prompts with more human turns; 1 keeps single-turn dialogues."),
    ] = None,
    num_rows: NumRows = None,
    seed: Annotated[int, whole_number(min=0, help="Seed of the choice of rows.")] = 0,
    max_rejected: MaxRejected = 0.05,
) -> None:
    """Write the accepted rows as Preftree's JSON lines."""
    from preftree.data.rows.columns import parse_columns
    from preftree.data.tools.convert import convert_file

    tally, written = convert_file(
        file,
        out,
        format_name=format_name,
        columns=None if columns is None else parse_columns(columns),
        kind=kind,
        chosen_side=side is not None,
        max_turns=max_turns,
        num_rows=num_rows,
        seed=seed,
        max_rejected_share=max_rejected,
    )
    _print_tally(out, tally, written)


@app.command("cut")
def cut(
    file: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The file to write: prompt, completion.")],
    model: Annotated[str, typer.Option(help="A model's folder or hub id, for its tokenizer.")],
    tokens: Annotated[str, typer.Option(help="Tokens of a prompt: the fewest and the most.")] = "2-8",
    num_rows: NumRows = None,
    seed: Annotated[int, whole_number(min=0, help="Seed of the cuts and of the choice of rows.")] = 0,
    format_name: Format = None,
    max_rejected: MaxRejected = 0.05,
) -> None:
    """Cut plain texts in two: the first few tokens are a prompt, the rest is its completion."""
    from preftree.data.tools.cut_texts import cut_file
    from preftree.errors import ConfigError
    from preftree.models.load import load_tokenizer

    fewest, dash, most = tokens.partition("-")
    if not (fewest.isdecimal() and (most.isdecimal() or not dash)):
        raise ConfigError(f"--tokens must be a number or two as 2-8, got {tokens!r}")
    tally, written = cut_file(
        file,
        out,
        load_tokenizer(model),
        fewest=int(fewest),
        most=int(most or fewest),
        seed=seed,
        num_rows=num_rows,
        format_name=format_name,
        max_rejected_share=max_rejected,
    )
    _print_tally(out, tally, written)


@app.command("rank")
def rank(
    samples: Annotated[
        str, typer.Argument(metavar="SAMPLES.jsonl", help="Several responses to each prompt, as generate writes them.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The file to write: prompt, responses, scores.")],
    reward: Judge,
    max_cost: MaxCost = None,
) -> None:
    """Rank the responses to each prompt by a reward, best first: preferences for dpo, reward and the others."""
    from preftree.judges.llm.bill import Asking
    from preftree.judges.rank_samples import rank_file
    from preftree.judges.rewards import load_rewards

    asking = Asking(max_cost)
    with judging(asking):
        rewards = load_rewards(reward, how=asking, in_groups=True)
    with progress_bar("responses judged", None) as show:
        counts = rank_file(samples, out, rewards, progress=show)
    typer.echo(
        f"{out}: {counts.rankings} rankings of {counts.kept} responses, from {counts.rows}; left out {counts.faulty} "
        f"empty or broken responses, {counts.repeated} repeated ones, {counts.unjudged} that the judge gave no "
        f"value, {counts.undecided} prompts whose responses have equal rewards",
        err=True,
    )
    if asking.bill.asked or asking.bill.cached:
        typer.echo(f"judge: {asking.bill}", err=True)


def _print_tally(out: Path, tally: Tally, written: int) -> None:
    """Print the rejected rows, and the counts of rows left out and written."""
    from preftree.data.rows.faults import ACTIONS

    for row in tally.rejected:
        typer.echo(f"rejected: {row}", err=True)
    if tally.num_rejected > len(tally.rejected):
        typer.echo(f"and {tally.num_rejected - len(tally.rejected)} more", err=True)
    for action, count in tally.actions.items():
        typer.echo(f"{count} {ACTIONS[action]} (first: {tally.places[action][0]})", err=True)
    if tally.repeated:
        typer.echo(
            f"{tally.repeated} repeats of earlier rows left out (first: {tally.places['repeated'][0]})", err=True
        )
    if tally.unread:
        fields = ", ".join(f"{field} ({rows} rows)" for field, rows in tally.unread.most_common())
        typer.echo(f"not read: {fields}", err=True)
    typer.echo(f"{out}: {written} rows written from {tally.rows}, {tally.num_rejected} rejected", err=True)

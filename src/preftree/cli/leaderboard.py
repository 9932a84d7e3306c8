"""`preftree eval leaderboard`: models ranked by verdicts and votes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preftree.cli.shared import print_table, reserve, whole_number


def leaderboard(
    verdicts: Annotated[
        list[str],
        typer.Argument(
            metavar="VERDICTS [VERDICTS ...]",
            help="verdicts.jsonl of `eval winrate`, exports of `collect`, or arena rows (model_a, model_b, winner).",
        ),
    ],
    resamples: Annotated[int, whole_number(min=100, help="Resamples of the intervals.")] = 500,
    seed: Annotated[int, whole_number(min=0, help="Seed of the resamples.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and the page.")] = Path("leaderboard"),
) -> None:
    """Rank models by Bradley-Terry strengths, with 95 % intervals of strengths and ranks by prompt.

    Models that no verdicts connect are an error that names the groups. Voters whose votes for a model are no chance are
    flagged, and the ranks without them are shown. The page is OUT/leaderboard.html.
    """
    import json

    from rich.table import Column

    from preftree.evaluate.judging.battles import read_battles
    from preftree.evaluate.judging.leaderboard import rank_models
    from preftree.report.judging.leaderboard import (
        describe_board,
        flags_table,
        leaderboard_page,
        left_out_lines,
        standings_table,
    )
    from preftree.report.page import write_page
    from preftree.storage.atomic import write_result

    board = rank_models(read_battles(verdicts), seed=seed, resamples=resamples)
    reserve(out)
    text = json.dumps(board.as_json() | {"files": verdicts}, indent=1, ensure_ascii=False) + "\n"
    write_result(out / "leaderboard.json", text, advice="give another --out")
    write_page(out / "leaderboard.html", leaderboard_page(board), advice="give another --out")
    heads, rows = standings_table(board)
    print_table([Column(head, overflow="fold") for head in heads], rows, title=describe_board(board))
    if board.flags:
        print_table(*flags_table(board), title="voters whose votes are no chance")
    for line in left_out_lines(board):
        typer.echo(line, err=True)
    typer.echo(f"{out / 'leaderboard.html'} is the page, {out / 'leaderboard.json'} has the figures", err=True)

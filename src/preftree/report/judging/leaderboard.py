"""The page of a leaderboard, and its tables for the terminal."""

from __future__ import annotations

from preftree.evaluate.judging.leaderboard import Leaderboard, Standing
from preftree.evaluate.judging.voters import Flag
from preftree.report.first_screen import Conclusion, in_words
from preftree.report.numbers import percent
from preftree.report.page import environment
from preftree.report.temperature import with_ends

_NAMED = 4


def leaderboard_page(board: Leaderboard) -> str:
    """The page as HTML."""
    rates = [standing.field_rate for standing in board.standings]
    low, high = min(rate.low for rate in rates), max(rate.high for rate in rates)
    pad = (high - low) * 0.03 or 0.01
    start, span = low - pad, high - low + 2 * pad

    def place(value: float) -> float:
        return round(100 * (value - start) / span, 2)

    rows = [
        {
            "rank": standing.rank,
            "range": ranks(standing) if standing.best < standing.worst else "",
            "model": standing.model,
            "rate": percent(standing.field_rate.value),
            "ends": f"{percent(standing.field_rate.low)} to {percent(standing.field_rate.high)}",
            "at": place(standing.field_rate.value),
            "low": place(standing.field_rate.low),
            "width": round(place(standing.field_rate.high) - place(standing.field_rate.low), 2),
            "battles": f"{standing.battles:,}",
        }
        for standing in board.standings
    ]
    heads, table = standings_table(board)
    return (
        environment()
        .get_template("leaderboard.html")
        .render(
            title=f"{len(board.standings)} models compared",
            script_digest=None,
            lede=describe_board(board),
            outcome=conclude_board(board),
            notes=_notes(board),
            rows=rows,
            even=place(0.5),
            flags=flags_table(board)[1],
            heads=heads,
            table=table,
        )
    )


def describe_board(board: Leaderboard) -> str:
    """What it rests on, in a sentence."""
    voters = f", {board.voters:,} voters" if board.voters > 1 else ""
    return f"{board.battles:,} comparisons on {board.prompts:,} prompts{voters}; Bradley-Terry, intervals by prompt."


def conclude_board(board: Leaderboard) -> Conclusion:
    """Which model is the best, and whether that is beyond chance."""
    first = board.standings[0]
    sentence = f"{first.model} is expected to win {percent(first.field_rate.value)} of comparisons with the others."
    question = "Which model is best?"
    if first.worst == 1:
        return Conclusion("yes", first.model, sentence, "", question)
    rivals = [standing.model for standing in board.standings[1:] if standing.best == 1]
    caveat = f"Its lead over {in_words(rivals)} is within chance." if rivals else ""
    return Conclusion("unclear", "Too close to call", sentence, caveat, question)


def standings_table(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: a row a model."""
    heads = ["model", "rank", "against the field", "strength", "comparisons"]
    rows = [
        [
            standing.model,
            f"{standing.rank} ({ranks(standing)})" if standing.best < standing.worst else str(standing.rank),
            with_ends(*standing.field_rate),
            with_ends(*standing.strength),
            f"{standing.battles:,}",
        ]
        for standing in board.standings
    ]
    if board.flags:
        heads.append("rank without them")
        for row, standing in zip(rows, board.standings, strict=True):
            row.append("" if standing.rank_without is None else str(standing.rank_without))
    return heads, rows


def flags_table(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: a row for each flagged voter or group."""
    heads = ["voters", "model", "", "comparisons", "won", "expected", "p"]
    return heads, [
        [
            _named(flag),
            flag.model,
            flag.leaning,
            f"{flag.battles:,}",
            f"{flag.won:.2f}",
            f"{flag.expected:.2f}",
            f"{flag.p:.1g}",
        ]
        for flag in board.flags
    ]


def ranks(standing: Standing) -> str:
    """The ranks that the verdicts do not rule out."""
    return str(standing.best) if standing.best == standing.worst else f"{standing.best} to {standing.worst}"


def left_out_lines(board: Leaderboard) -> list[str]:
    """A line for each reason why something read is no battle."""
    return [f"left out: {count:,} {reason}" for reason, count in board.left_out.items()]


def _named(flag: Flag) -> str:
    names = [name or "without a name" for name in flag.voters[:_NAMED]]
    more = len(flag.voters) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _notes(board: Leaderboard) -> list[tuple[str, str]]:
    notes = []
    for flag in board.flags:
        side = "for" if flag.leaning == "for" else "against"
        who = "one voter" if len(flag.voters) == 1 else f"{len(flag.voters)} voters"
        notes.append(
            (
                "warning",
                f"{who} voted {side} {flag.model} beyond chance: it won {percent(flag.won)} of {flag.battles:,} "
                f"comparisons, expected are {percent(flag.expected)}.",
            )
        )
    return [*notes, *(("note", line) for line in left_out_lines(board))]

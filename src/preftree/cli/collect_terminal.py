"""Voting and adjudicating in the terminal."""

from __future__ import annotations

import hmac
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from preftree.collect.propose import open_queue
from preftree.collect.queue import Queue
from preftree.collect.records import Kind, Shown, Side, Vote
from preftree.collect.store import SqliteStore
from preftree.collect.web.texts import card
from preftree.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

KEYS = "1 or 2: that one is better · 0: equal · x: both bad · s: skip · f: flag · u: undo · ?: guide · q: quit"
GRADES = "after 1 or 2, 1 (a little) to 4 (much) says how much: 13 is 'the first one, clearly'"
_SIDES: dict[str, Side] = {"1": "left", "2": "right", "0": "tie", "x": "bad"}
_OTHERS: dict[str, Kind] = {"s": "skip", "f": "flag"}
MOST_UNDONE = 20


def label_pairs(store: SqliteStore, name: str) -> None:
    """Show pairs to one person until they quit or nothing is left."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    annotator = store.join(name)
    if annotator.state != "active":
        raise ConfigError(f"{name} is paused in this project; the admin can change that on the admin's page")
    queue, settings = open_queue(store), store.settings()
    done: list[tuple[Shown, int]] = []
    pending: list[tuple[Shown, int]] = []
    console.print(f"{settings.title}\n{KEYS}", style="dim")
    if settings.strength:
        console.print(GRADES, style="dim")
    while True:
        if not pending:
            shown, picked = queue.next(annotator.id, 1, time.time())
            store.show(shown, picked).result()
            pending = [(one, queue.turns(annotator.id, one.id)) for one in shown]
        if not pending:
            console.print("Nothing is left for you to vote on. Thank you.")
            return
        one, turn = pending[-1]
        _show(console, card(store.reading, one, turn, html=False))
        begun = time.monotonic()
        console.print(f"{queue.done_by(annotator.id)} by you, {queue.votes} of {queue.needed} in all", style="dim")
        answer = _ask(console, f"{settings.question} ", settings.strength)
        if answer in (None, "q"):
            return
        if answer == "?":
            console.print(f"{settings.guidelines or 'There are no instructions.'}\n{KEYS}")
            continue
        if answer == "u":
            if not done:
                console.print("There is nothing to take back.")
                continue
            last, at = done.pop()
            _keep(store, queue, Vote(last.id, at + 1, "undo", None, None, 0, time.time()), last)
            pending.append((last, at + 2))
            continue
        ms = min(86_400_000, round(1000 * (time.monotonic() - begun)))
        side = _SIDES.get(answer[0])
        choice = None if side is None else one.choice_of(side)
        strength = int(answer[1]) if len(answer) == 2 else None
        _keep(store, queue, Vote(one.id, turn, _OTHERS.get(answer, "vote"), choice, strength, ms, time.time()), one)
        done = [*done, (one, turn)][-MOST_UNDONE:]
        pending.pop()


def adjudicate_pairs(store: SqliteStore, most: int) -> None:
    """Show the pairs that votes leave in doubt, the most doubtful first; a decision becomes the pair's known answer."""
    from rich.console import Console

    from preftree.collect.statistics import figures_of_project

    console = Console(highlight=False, markup=False, emoji=False)
    undecided = figures_of_project(store.reading).undecided
    if not undecided:
        console.print("No pair is in doubt: none has two votes and no known answer.")
        return
    console.print(f"{len(undecided)} pairs have two votes or more and no known answer, the most doubtful first.")
    console.print("1 or 2: that one is better · 0: equal · x: both bad · s: leave it · q: quit", style="dim")
    decided = 0
    for pair, win_prob in undecided[:most]:
        # Sides are even, and the same when the pair comes up again.
        first_is_left = hmac.new(store.secret, f"adjudicate:{pair}".encode(), "sha256").digest()[0] < 128
        shown = Shown("", pair, 0, first_is_left, 0, 0.0, 0.0)
        _show(console, card(store.reading, shown, 0, html=False))
        answer = _ask(console, "better> ", graded=False, others={"s"})
        if answer in (None, "q"):
            break
        if answer == "s":
            continue
        choice = shown.choice_of(_SIDES[answer])
        known = (choice, pair)
        store.writer.submit(lambda project, row=known: project.execute(_KNOWN, row).rowcount).result()
        decided += 1
        console.print(f"The votes gave the first response {win_prob:.2f}; you: {choice}.", style="dim")
    console.print(f"{decided} pairs have a known answer now, which counts as gold.")


_KNOWN = "UPDATE pair SET gold = ? WHERE id = ?"


def _keep(store: SqliteStore, queue: Queue, vote: Vote, shown: Shown) -> None:
    (kept,) = store.vote([vote]).result()
    if kept.is_new:
        queue.acted(shown, vote.kind, vote.turn, kept.before)


def _ask(console: Console, question: str, graded: bool, others: Collection[str] = ("s", "f", "u", "?")) -> str | None:
    words = {*_SIDES, *others, "q"}
    words |= {f"{side}{grade}" for side in "12" for grade in "1234"} if graded else set()
    while True:
        try:
            answer = console.input(question).strip().lower()
        except (EOFError, KeyboardInterrupt):
            return None
        if answer in words:
            return answer
        console.print(KEYS, style="dim")


def _show(console: Console, pair: dict) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console.rule()
    for turn in pair["prompt"]:
        console.print(Text(f"{turn['role']}: ", style="dim") + Text(turn["text"], style="default"))
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    # Texts of a model are shown as they are: no markup in them counts.
    table.add_row(*(Panel(Text(pair[side]["text"]), title=name) for side, name in (("left", "1"), ("right", "2"))))
    console.print(table)

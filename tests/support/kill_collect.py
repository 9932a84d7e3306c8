"""Kill the server of a project again and again while eight people vote; compare what was acknowledged with the file.

    PYTHONPATH=tests python -m support.kill_collect FOLDER --kills 100

Prints one JSON object. A client notes a vote when the answer 200 has been read whole; a vote whose answer did not come
is sent again, as the page does it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preftree.collect.queue import Queue
from preftree.collect.store import SqliteStore
from support.collect import (
    Client,
    add_people,
    end,
    fork_server,
    free_port,
    make_numbered,
    rows,
    run,
    secret_of,
    with_settings,
)

PEOPLE = 8
LOST = (OSError, asyncio.IncompleteReadError)


@dataclass(slots=True)
class Person:
    """What one client has sent and what was acknowledged."""

    number: int
    acked: dict[tuple[str, int], tuple[str, str | None]] = field(default_factory=dict)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0


async def work(person: Person, client: Client, chance: random.Random, stop: asyncio.Event) -> None:
    """Vote, and take one vote in ten back and vote again, until the server is gone or `stop` is set."""
    cards: list[dict[str, Any]] = []
    try:
        while not stop.is_set():
            if not person.waiting:
                if not cards:
                    status, answer = await client.ask("/next?have=")
                    cards = answer.get("pairs", [])
                    if status != 200 or not cards:
                        await asyncio.sleep(0.02)
                        continue
                card = cards.pop(0)
                side = chance.choice(["left", "right", "tie", "bad"])
                votes = [{"shown": card["shown"], "turn": card["turn"], "kind": "vote", "side": side, "ms": 500}]
                if chance.random() < 0.1:
                    votes += [
                        {"shown": card["shown"], "turn": card["turn"] + 1, "kind": "undo", "ms": 0},
                        {**votes[0], "turn": card["turn"] + 2, "side": "left"},
                    ]
                person.waiting = votes
            batch = person.waiting
            person.sent += len(batch)
            status, answer = await client.ask("/votes", {"votes": batch})
            assert status == 200, (status, answer)
            for vote in batch:
                person.acked[vote["shown"], vote["turn"]] = vote["kind"], vote.get("side")
            person.waiting = []
    except LOST:
        pass
    finally:
        client.close()


async def round_of(
    people: list[Person], port: int, secret: bytes, chance: random.Random, child: int, life: float
) -> None:
    """Let all work, and kill the server in the midst of it."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(work(one, Client.of(port, secret, one.number), chance, stop)) for one in people]
    await asyncio.sleep(life)
    end(child)
    stop.set()
    for task in tasks:
        await task


def kill_many(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill so many servers, then compare."""
    chance = random.Random(seed)
    settings = with_settings(overlap=3, repeats=0.05, golds=0.05, lease=2.0)
    path = make_numbered(folder / "P.db", 400 * kills + 400, settings, golds=30)
    people = [Person(number) for number in add_people(path, PEOPLE)]
    secret, port, begun = secret_of(path), free_port(), time.monotonic()
    for _ in range(kills):
        child = fork_server(path, port)
        run(round_of(people, port, secret, chance, child, chance.uniform(0.2, 0.8)))
    seconds = time.monotonic() - begun
    run(_finish(people, path, port, secret, chance))
    acked = {key: value for one in people for key, value in one.acked.items()}
    left = dict(rows(path, "SELECT id, first_is_left FROM shown"))
    stored = {
        (shown, turn): (kind, _side(choice, left[shown]))
        for shown, turn, kind, choice in rows(path, "SELECT shown, turn, kind, choice FROM vote")
    }
    counted = rows(
        path,
        """SELECT count(*) FROM pair p LEFT JOIN (SELECT s.pair, count(*) AS counted FROM vote v
           JOIN shown s ON s.id = v.shown WHERE s.visit = 0 AND v.kind = 'vote' AND NOT EXISTS
           (SELECT 1 FROM vote w WHERE w.shown = v.shown AND w.turn = v.turn + 1) GROUP BY s.pair) c ON c.pair = p.id
           WHERE p.votes <> coalesce(counted, 0)""",
    )
    twice = rows(path, "SELECT count(*) - count(DISTINCT shown || ':' || turn) FROM vote")
    return {
        "kills": kills,
        "seconds": round(seconds, 1),
        "sent": sum(one.sent for one in people),
        "acked": len(acked),
        "stored": len(stored),
        "lost": sum(stored.get(key) is None for key in acked),
        "changed": sum(stored.get(key, value) != value for key, value in acked.items()),
        "twice": twice[0][0],
        "miscounted": counted[0][0],
        "work_left": _work_left(path, time.time() + settings.lease),
        "integrity": rows(path, "PRAGMA integrity_check")[0][0],
    }


async def _finish(people: list[Person], path: Path, port: int, secret: bytes, chance: random.Random) -> None:
    """Let a last server take what is still waiting, and end in good order."""
    child = fork_server(path, port)
    stop = asyncio.Event()
    tasks = [asyncio.create_task(work(one, Client.of(port, secret, one.number), chance, stop)) for one in people]
    await asyncio.sleep(0.3)
    stop.set()
    for task in tasks:
        await task
    end(child, signal.SIGTERM)


def _work_left(path: Path, now: float) -> list[int]:
    """[votes that are wanted, pairs that as many new people as may be needed are shown] once all leases are over."""
    store = SqliteStore(path)
    queue = Queue(store, now)
    strangers = range(10_000, 10_000 + store.settings().overlap)
    golds = {pair for pair, gold, *_ in store.pairs() if gold is not None}
    shown = [one for person in strangers for one in queue.next(person, 10**6, now)[0]]
    store.close()
    return [queue.needed - queue.votes, sum(one.visit == 0 and one.pair not in golds for one in shown)]


def _side(choice: str | None, first_is_left: int) -> str | None:
    if choice not in ("first", "second"):
        return choice
    return "left" if (choice == "first") == bool(first_is_left) else "right"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill the server of a project under eight people.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(kill_many(given.folder, given.kills, given.seed)))

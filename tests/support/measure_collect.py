"""Measure a project's server: votes a second, waits of many people, a large project, and the disk beneath it all."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from preftree.collect.schema import connect
from support.collect import PASSWORD, Client, add_people, make_numbered, run, secret_of, served, with_settings

ENOUGH = 5
"""Pairs ahead above which the page asks for no more, as in `vote.js`."""


def raw_fsync(folder: Path, seconds: float = 3.0) -> dict[str, float]:
    """Appends of 4 KiB, each with an fsync, one after the other: how many a second, and the 99th percentile in ms."""
    waits, begun = [], time.monotonic()
    with open(folder / "raw", "ab", buffering=0) as file:
        while time.monotonic() - begun < seconds:
            before = time.monotonic()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            waits.append(1000 * (time.monotonic() - before))
    return {"per_second": len(waits) / seconds, "p50": _percentile(waits, 50), "p99": _percentile(waits, 99)}


def vote_rate(folder: Path, people: int, seconds: float, think: float = 0.0) -> dict[str, float]:
    """People who vote and take the next pair, as the page does it, each on one connection.

    Args:
      folder: Place of the project.
      people: Their number.
      seconds: How long they vote.
      think: Most seconds between an answer and the next vote; uniform from 0.
    """
    path = make_numbered(folder / f"rate-{people}-{think}.db", 30_000, with_settings(overlap=2, repeats=0.05))
    numbers = add_people(path, people)
    votes: list[float] = []
    nexts: list[float] = []
    both: list[float] = []

    async def person(client: Client, chance: random.Random, end: float) -> None:
        held = (await client.ask("/next"))[1]["pairs"]
        while time.monotonic() < end:
            await asyncio.sleep(chance.uniform(0, think))
            if not held:
                held = (await client.ask("/next"))[1]["pairs"]
                continue
            before = time.monotonic()
            status, _ = await client.vote(held.pop(0), chance.choice(["left", "right"]))
            middle = time.monotonic()
            assert status == 200
            if len(held) <= ENOUGH:
                have = ",".join(card["shown"] for card in held)
                held += (await client.ask(f"/next?have={have}"))[1]["pairs"]
                nexts.append(1000 * (time.monotonic() - middle))
            votes.append(1000 * (middle - before))
            both.append(1000 * (time.monotonic() - before))

    async def all_people(port: int) -> float:
        secret, begun = secret_of(path), time.monotonic()
        clients = [Client.of(port, secret, number) for number in numbers]
        await asyncio.gather(*(person(c, random.Random(i), begun + seconds) for i, c in enumerate(clients)))
        return time.monotonic() - begun

    with served(path) as port:
        took = run(all_people(port))
    return {
        "votes_per_second": len(votes) / took,
        "vote_p99": _percentile(votes, 99),
        "next_p99": _percentile(nexts, 99),
        "both_p50": _percentile(both, 50),
        "both_p99": _percentile(both, 99),
    }


def make_large(path: Path, pairs: int, votes: int, people: int) -> None:
    """A project with so many pairs, most of which have votes."""
    make_numbered(path, 0, with_settings(overlap=votes // pairs + 2))
    add_people(path, people)
    project, chance = connect(path, write=True), np.random.default_rng(0)
    project.execute("BEGIN IMMEDIATE")
    prompts = ((n, json.dumps({"prompt": f"prompt {n}"}), f"slice {n % 5}") for n in range(2, pairs + 2))
    project.executemany("INSERT INTO item (id, prompt, slice, added) VALUES (?, ?, ?, 0)", prompts)
    words = (
        (2 * n + side, n, f"answer {side} to {n} " * 20, f"m{side}") for n in range(2, pairs + 2) for side in (0, 1)
    )
    project.executemany("INSERT INTO response (id, item, text, source) VALUES (?, ?, ?, ?)", words)
    each = votes // pairs
    rows = ((n - 1, n, 2 * n, 2 * n + 1, "random", 1 / pairs, n - 2, each) for n in range(2, pairs + 2))
    project.executemany(
        "INSERT INTO pair (id, item, first, second, picked_by, p_pick, picked_at, votes) VALUES (?,?,?,?,?,?,?,?)", rows
    )
    left = chance.random(pairs * each) < 0.5
    first = chance.random(pairs * each) < 0.6
    order = [(number // each + 1, (number * 7 + number // each) % people + 1) for number in range(pairs * each)]
    shown = (
        (f"s{number}", pair, person, int(left[number]), 0, float(number), float(number))
        for number, (pair, person) in enumerate(order)
    )
    project.executemany(
        "INSERT OR IGNORE INTO shown (id, pair, annotator, first_is_left, visit, at, until) VALUES (?,?,?,?,?,?,?)",
        shown,
    )
    given = (
        (f"s{number}", "first" if first[number] else "second", 5000 + number % 9000, float(number))
        for number in range(pairs * each)
    )
    project.execute("PRAGMA foreign_keys = OFF")
    project.executemany("INSERT INTO vote (shown, turn, kind, choice, ms, at) VALUES (?, 0, 'vote', ?, ?, ?)", given)
    project.execute("COMMIT")
    project.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    project.close()


def large_project(folder: Path, pairs: int = 100_000, votes: int = 1_000_000, people: int = 100) -> dict[str, Any]:
    """Seconds until a large project is served; waits for the next pair and for a vote in ms; seconds of admin pages."""
    path = folder / "large.db"
    make_large(path, pairs, votes, people)
    begun = time.monotonic()
    with served(path) as port:
        client = Client.of(port, secret_of(path), 1)
        assert run(client.ask("/progress"))[0] == 200
        ready = time.monotonic() - begun
        first, nexts, pages = run(_walk(path, port, people))
    return {
        "pairs": pairs,
        "votes": votes,
        "ready": ready,
        "first_next_p50": _percentile(first, 50),
        "first_next_p99": _percentile(first, 99),
        "next_p99": _percentile(nexts, 99),
        "admin_pages": [round(page, 2) for page in pages],
        "megabytes": path.stat().st_size / 1e6,
    }


async def _walk(path: Path, port: int, people: int) -> tuple[list[float], list[float], list[float]]:
    secret, first, nexts, pages = secret_of(path), [], [], []
    for number in range(1, people + 1):
        client = Client.of(port, secret, number)
        for turn in range(11):
            before = time.monotonic()
            status, answer = await client.ask("/next")
            (nexts if turn else first).append(1000 * (time.monotonic() - before))
            assert status == 200 and answer["pairs"], answer
            assert (await client.vote(answer["pairs"][0]))[0] == 200
    admin = Client(port, "", "")
    _, headers, _ = await admin.raw("/admin/sign-in", f"password={PASSWORD.replace(' ', '+')}".encode())
    admin.cookie = headers["set-cookie"].partition(";")[0]
    page = b""
    for _ in range(12):
        before = time.monotonic()
        status, _, page = await admin.raw("/admin")
        pages.append(time.monotonic() - before)
        assert status == 200
        if re.search(rb"Krippendorff", page):
            break
        await asyncio.sleep(2)
    assert re.search(rb"Krippendorff", page)
    return first, nexts, pages


def _percentile(waits: list[float], which: float) -> float:
    return float(np.percentile(waits, which)) if waits else float("nan")

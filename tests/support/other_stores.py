"""Votes kept as other tools keep them, in a few lines each, under the same kills: a list in memory, an append.

Described, not copied: FastChat's arena appends a JSON line to a log file and closes it; Potato's model arena keeps a
`deque(maxlen=1000)`. Neither knows whether a vote that is sent again is the same vote.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import socket
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from support.collect import Client, end, free_port, run

Kind = Literal["memory", "append"]
LOST = (OSError, asyncio.IncompleteReadError)


def _app(kind: Kind, path: Path) -> Starlette:
    arena: deque[dict[str, Any]] = deque(maxlen=1000)

    async def vote(request: Request) -> Response:
        given = await request.json()
        if kind == "memory":
            arena.append(given)
        else:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(given) + "\n")
        return JSONResponse({})

    async def votes(request: Request) -> Response:
        lines = path.read_text().splitlines() if path.exists() else []
        return JSONResponse({"votes": list(arena) if kind == "memory" else [json.loads(line) for line in lines]})

    return Starlette(routes=[Route("/votes", vote, methods=["POST"]), Route("/votes", votes)])


def _fork(kind: Kind, path: Path, port: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            config = uvicorn.Config(_app(kind, path), log_config=None, access_log=False, lifespan="off")
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            os._exit(0)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return child
        except OSError:
            time.sleep(0.005)


def kill_others(kind: Kind, folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """The kills of `kill_collect` for such a store: acknowledged votes that are lost, and votes that stand twice."""
    path, port, chance = folder / "votes.jsonl", free_port(), random.Random(seed)
    acked: set[str] = set()
    waiting: dict[int, str] = {}
    at_risk: list[int] = []

    async def person(number: int, stop: asyncio.Event) -> None:
        client = Client(port, "", "")
        try:
            while not stop.is_set():
                key = waiting.setdefault(number, f"{number}-{chance.random()}")
                status, _ = await client.ask("/votes", {"key": key, "choice": "left"})
                assert status == 200
                acked.add(key)
                del waiting[number]
        except LOST:
            pass

    async def life(child: int) -> None:
        stop = asyncio.Event()
        tasks = [asyncio.create_task(person(number, stop)) for number in range(8)]
        await asyncio.sleep(chance.uniform(0.2, 0.8))
        end(child)
        if path.exists():
            at_risk.append(unwritten(path))
        stop.set()
        await asyncio.gather(*tasks)

    for _ in range(kills):
        run(life(_fork(kind, path, port)))
    child = _fork(kind, path, port)
    stored = Counter(vote["key"] for vote in run(Client(port, "", "").ask("/votes"))[1]["votes"])
    end(child)
    return {
        "store": kind,
        "kills": kills,
        "acked": len(acked),
        "lost": sum(key not in stored for key in acked),
        "twice": sum(count > 1 for count in stored.values()),
        "bytes_not_on_disk_at_a_kill": max(at_risk, default=0),
    }


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


def unwritten(path: Path) -> int:
    """Bytes of a file that are in memory alone, in whole pages (Linux's cachestat, since 6.5); -1 where not known."""
    counts = (ctypes.c_uint64 * 5)()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        whole = _Range(0, 0)
        failed = ctypes.CDLL(None).syscall(451, descriptor, ctypes.byref(whole), ctypes.byref(counts), 0)
        return -1 if failed else (counts[1] + counts[2]) * 4096
    finally:
        os.close(descriptor)

"""Projects of made-up responses, their server in a process of its own, and a client that speaks just enough HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import preftree
from preftree.collect.fill import Filling
from preftree.collect.records import Settings
from preftree.collect.schema import connect
from preftree.collect.store import SqliteStore, own_project
from preftree.collect.web.app import serve
from preftree.collect.web.identity import Identity

T = TypeVar("T")

PASSWORD = "correct horse battery"


def make_numbered(path: Path, pairs: int, settings: Settings, golds: int = 0) -> Path:
    """A project of so many pairs, one an item: `first 3` against `second 3` to `prompt 3`; the first ones are golds."""
    from preftree.collect.fill import make_project
    from preftree.collect.web.identity import hash_password

    prompts = path.with_suffix(".txt")
    prompts.write_text("a prompt\n")
    make_project(path, settings, password_hash=hash_password(PASSWORD), prompts=str(prompts))
    project = connect(path, write=True)
    project.execute("BEGIN IMMEDIATE")
    filling = Filling(project)
    for number in range(pairs):
        item = filling.item(f"prompt {number}", f"slice {number % 3}")
        two = [filling.response(item, f"{name} {number}", f"model-{name}") for name in ("first", "second")]
        filling.pair(item, *two, gold="first" if number < golds else None)
    project.execute("COMMIT")
    project.close()
    return path


def add_people(path: Path, count: int) -> list[int]:
    """Annotators `person 0` and so on; their numbers."""
    store = SqliteStore(path)
    people = [store.join(f"person {number}").id for number in range(count)]
    store.close()
    return people


def secret_of(path: Path) -> bytes:
    """The key of a project."""
    project = connect(path, write=False)
    (value,) = project.execute("SELECT value FROM setting WHERE name = 'secret'").fetchone()
    project.close()
    return bytes.fromhex(json.loads(value))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fork_server(path: Path, port: int, prepare: Callable[[SqliteStore], object] = bool) -> int:
    """Serve a project in a child of this process; its process id, once the port is open."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with own_project(path) as store:
                prepare(store)
                serve(store, "127.0.0.1", port, public_url=None, started=lambda url: None)
            code = 0
        finally:
            os._exit(code)
    return _opened(child, port)


def _opened(child: int, port: int) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return child
        except OSError:
            time.sleep(0.005)
    raise TimeoutError("the server does not start")


def spawn_server(path: Path, port: int) -> int:
    """The same in a process that shares no descriptor with this one; a browser's driver would wait for it otherwise."""
    paths = [str(Path(preftree.__file__).parents[1]), str(Path(__file__).parents[1])]
    command = [sys.executable, "-m", "support.collect", str(path), str(port)]
    started = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
    started.returncode = 0  # `end` waits for it
    return _opened(started.pid, port)


def end(child: int, signum: int = signal.SIGKILL) -> None:
    """End a server and wait for it."""
    os.kill(child, signum)
    os.waitpid(child, 0)


@contextmanager
def served(path: Path, start: Callable[[Path, int], int] = fork_server) -> Iterator[int]:
    """Serve a project; the port."""
    port = free_port()
    child = start(path, port)
    try:
        yield port
    finally:
        end(child)


OPEN: list[asyncio.StreamWriter] = []
"""Connections of the loop that runs."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run what clients do, and close their connections."""

    async def running() -> T:
        try:
            return await work
        finally:
            for writer in OPEN:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in OPEN), return_exceptions=True)
            OPEN.clear()

    return asyncio.run(running())


@dataclass(slots=True)
class Client:
    """A browser of one annotator: cookie, form token, and one connection that is kept."""

    port: int
    cookie: str
    token: str
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    extra: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, port: int, secret: bytes, annotator: int) -> Client:
        identity = Identity(secret)
        session = identity.session(annotator)
        return cls(port, f"annotator={session}", identity.form_token(session))

    async def ask(self, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """(status, JSON) of a request; the answer has been read whole."""
        status, _, content = await self.raw(path, body)
        return status, json.loads(content) if content[:1] in (b"{", b"[") else {}

    async def raw(self, path: str, body: Any = None) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of a request."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            OPEN.append(self.writer)
        assert self.reader is not None
        own = f"127.0.0.1:{self.port}"
        headers = {"Host": own, "Cookie": self.cookie}
        content = b""
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers |= {"Origin": f"http://{own}", "X-Token": self.token, "Content-Type": "application/json"}
            headers["Content-Length"] = str(len(content))
        headers |= self.extra
        lines = [
            f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
            *(f"{n}: {v}" for n, v in headers.items() if v),
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await self.writer.drain()
        status = int((await self.reader.readuntil(b"\r\n")).split()[1])
        found: dict[str, str] = {}
        while (line := (await self.reader.readuntil(b"\r\n")).decode().strip()) != "":
            name, _, value = line.partition(":")
            found[name.lower()] = value.strip()
        content = await self.reader.readexactly(int(found.get("content-length", 0)))
        if found.get("connection") == "close":
            self.close()
        return status, found, content

    async def vote(self, card: dict[str, Any], side: str = "left", **more: Any) -> tuple[int, dict[str, Any]]:
        """Vote on a pair that the server showed."""
        vote = {"shown": card["shown"], "turn": card["turn"], "kind": "vote", "side": side, "ms": 700, **more}
        return await self.ask("/votes", {"votes": [vote]})

    def close(self) -> None:
        """Close the connection."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def with_settings(**changes: Any) -> Settings:
    """Settings without golds and repeats, changed."""
    return replace(Settings(golds=0.0, repeats=0.0), **changes)


def rows(path: Path, query: str, *values: object) -> list[tuple]:
    """Rows of a query on a project file."""
    project = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return project.execute(query, values).fetchall()
    finally:
        project.close()


if __name__ == "__main__":
    with own_project(Path(sys.argv[1])) as project:
        serve(project, "127.0.0.1", int(sys.argv[2]), public_url=None, started=lambda url: None)

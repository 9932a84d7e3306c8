"""What all pages of a served project share: its store and queue, who asks, and what they may do."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from preftree.collect.propose import open_queue
from preftree.collect.queue import Queue
from preftree.collect.records import Annotator, Shown
from preftree.collect.store import SqliteStore
from preftree.collect.web.identity import Identity


def beginning(prompt: str) -> str:
    """The first words of a prompt that is cut-off JSON."""
    words = re.sub(r'^\{"prompt": (?:\[\{"role": "\w+", "content": )?"', "", prompt).replace("\\n", " ")
    return words[:100].removesuffix('"}') + ("..." if len(words) > 100 else "")


HERE = Path(__file__).parent
MOST_AHEAD = 12
"""Pairs that a page holds, so that it can go on while the server is away."""

ACTIVE = 600.0
"""Seconds after which an annotator who asked for nothing has left."""

_TEMPLATES = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined)
_TEMPLATES.filters["beginning"] = beginning


@dataclass(slots=True)
class Site:
    """A project that is being served.

    Attributes:
      store: The project file.
      queue: Its queue; made anew where the store has refused a row that the queue counts on.
      identity: Signs and reads tokens.
      url: Address for links, without a slash at the end.
      last_seen: Second at which each annotator asked last.
    """

    store: SqliteStore
    queue: Queue
    identity: Identity
    url: str
    last_seen: dict[int, float]

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach the server over TLS, and cookies must not go without."""
        return self.url.startswith("https://")

    def annotator(self, request: Request) -> Annotator:
        """Who asks.

        Raises:
          HTTPException: 403, nobody who may vote.
        """
        number = self.identity.annotator(request.cookies.get(self.identity.cookie("annotator")))
        annotator = None if number is None else self.store.annotator(number)
        if annotator is None:
            raise HTTPException(403, "Your session has ended. Ask for a new invitation.")
        if annotator.state != "active":
            raise HTTPException(403, "Your work here is paused. Ask the person who invited you.")
        self.last_seen[annotator.id] = time.monotonic()
        return annotator

    def require_form(self, request: Request, who: Literal["annotator", "admin"]) -> None:
        """See that what is sent carries the token of the page that sent it.

        Raises:
          HTTPException: 403, it does not.
        """
        if not self.identity.is_form_token(
            request.cookies.get(self.identity.cookie(who), ""), request.headers.get("x-token")
        ):
            raise HTTPException(403, "The page is out of date. Reload it.")

    def room(self, held: int) -> int:
        """Pairs that a page which holds so many gets: fewer, the less is left for all who are here."""
        now = time.monotonic()
        here = sum(now - then < ACTIVE for then in self.last_seen.values())
        left = (self.queue.needed - self.queue.votes) // (4 * here) if here > 1 else MOST_AHEAD
        return max(0, min(MOST_AHEAD, max(2, left)) - held)

    async def show(self, annotator: int, count: int, have: frozenset[str]) -> list[Shown]:
        """What an annotator sees next, kept by the store.

        Raises:
          WriteError: the disk refuses; the queue then begins anew from what the store has.
        """
        shown, picked = self.queue.next(annotator, count, time.time(), have)
        if shown:
            try:
                await asyncio.wrap_future(self.store.show(shown, picked))
            except Exception:
                self.begin_anew()
                raise
        return shown

    def begin_anew(self) -> None:
        """Make the queue from what the store has."""
        self.queue = open_queue(self.store)

    def page(self, name: str, status: int = 200, **values: Any) -> Response:
        """A page from its template."""
        settings = self.store.settings()
        return HTMLResponse(_TEMPLATES.get_template(name).render(settings=settings, **values), status)


async def read_json(request: Request) -> dict[str, Any]:
    """The object that a request carries.

    Raises:
      HTTPException: 400 or 415, it is none.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "The body must be JSON.")
    try:
        given = json.loads(await request.body())
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise HTTPException(400, "The body must be a JSON object.")
    return given

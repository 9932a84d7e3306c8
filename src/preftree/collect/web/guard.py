"""The guard before every page: which hosts and origins are served, how large a body is, and what browsers may load."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("preftree")

MOST_BYTES = 2**20
"""Bytes of a request's body."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Guard:
    """Refuses what was not sent by our own pages.

    Attributes:
      app: What is guarded.
      origins: Addresses of the server as browsers name them, `http://127.0.0.1:8500` for example.
    """

    app: ASGIApp
    origins: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or 413, or let the request through."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), scope["method"])
        if refusal is not None:
            await PlainTextResponse(refusal[1], refusal[0], headers=HEADERS)(scope, receive, send)
            return
        await self.app(scope, _limited(receive), _with_headers(send))

    def _refusal(self, headers: Headers, method: str) -> tuple[int, str] | None:
        hosts = {origin.partition("://")[2] for origin in self.origins}
        if headers.get("host") not in hosts:
            return 403, "This server is not known under that name."
        if method in ("GET", "HEAD"):
            return None
        if headers.get("origin") not in self.origins:
            return 403, "That was not sent by a page of this server."
        size = headers.get("content-length", "")
        if not size.isdecimal() or int(size) > MOST_BYTES:
            return 413, f"At most {MOST_BYTES} bytes can be sent at once."
        return None


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return sending


def _limited(receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Stop reading a body that is longer than it said."""
    read = 0

    async def receiving() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        return message if read <= MOST_BYTES else {"type": "http.disconnect"}

    return receiving

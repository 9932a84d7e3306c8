"""The web application of a project, and the server that runs it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from preftree.collect.propose import open_queue
from preftree.collect.store import SqliteStore
from preftree.collect.web.admin import admin_routes
from preftree.collect.web.guard import Guard
from preftree.collect.web.identity import Identity, invite
from preftree.collect.web.site import HERE, Site
from preftree.collect.web.voting import voting_routes
from preftree.errors import ConfigError, WriteError

log = logging.getLogger("preftree")

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def make_app(store: SqliteStore, origins: frozenset[str], url: str) -> ASGIApp:
    """The application of a project.

    Args:
      store: The project file.
      origins: Addresses under which browsers may reach it.
      url: The one that links have.
    """
    site = Site(store, open_queue(store), Identity(store.secret), url, {})

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)

    async def not_written(request: Request, error: Exception) -> Response:
        log.error("%s", error)
        return JSONResponse({"error": "The server's disk refuses"}, 503)

    app = Starlette(
        routes=[
            *voting_routes(site),
            *admin_routes(site),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        exception_handlers={HTTPException: refused, WriteError: not_written},
    )
    return Guard(app, origins)


def serve(store: SqliteStore, host: str, port: int, *, public_url: str | None, started: Callable[[str], None]) -> None:
    """Serve a project until SIGINT or SIGTERM.

    Args:
      store: The project file.
      host: Address to listen on; one that others reach needs `public_url`.
      port: Port; 0 takes a free one.
      public_url: Address under which others reach it, `https://votes.example.org` for example.
      started: Called with the address for links once the port is open.
    Raises:
      ConfigError: the port is taken, the address is none of this machine, or it is public without a URL.
    """
    if host not in LOOPBACK and public_url is None:
        raise ConfigError(
            f"{host} can be reached from other machines; add --public URL with the address that people open, or leave "
            "--host out"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's delay of 40 ms off only where the protocol is named.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)  # a link that is printed can be opened
    except OSError as error:
        raise ConfigError(f"{host} port {port} cannot be used ({error.strerror}); give another --port") from error
    port = listener.getsockname()[1]
    local = f"http://{'[' + host + ']' if ':' in host else host}:{port}"
    url = local if public_url is None else public_url.rstrip("/")
    names = {url} if public_url is not None else {local, f"http://localhost:{port}", f"http://127.0.0.1:{port}"}
    config = uvicorn.Config(
        make_app(store, frozenset(names), url),
        log_config=None,
        access_log=False,  # paths hold invitations
        log_level="error",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    started(url)
    uvicorn.Server(config).run(sockets=[listener])


def invitation_link(store: SqliteStore, name: str, url: str) -> str:
    """A link, to be used once, with which a person of this name votes."""
    annotator = store.join(name)
    number = store.writer.submit(lambda project: invite(project, annotator.id)).result()
    return f"{url}/join/{Identity(store.secret).invitation(number)}"

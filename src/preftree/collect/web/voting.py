"""Routes of the voting page: join, see pairs, vote, take back."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from preftree.collect.records import Choice, Kind, Shown, Side, Vote
from preftree.collect.store import OutOfTurn
from preftree.collect.web.identity import SESSION, accept
from preftree.collect.web.site import Site, read_json
from preftree.collect.web.texts import as_html, card

log = logging.getLogger("preftree")

MOST_VOTES = 500
"""Votes of one request."""

LONGEST_NOTE = 2000
LONGEST_MS = 86_400_000

_SIDES: tuple[Side, ...] = ("left", "right", "tie", "bad")
_KINDS: tuple[Kind, ...] = ("vote", "skip", "flag", "undo")


def voting_routes(site: Site) -> list[Route]:
    """The routes of annotators."""

    async def home(request: Request) -> Response:
        try:
            annotator = site.annotator(request)
        except HTTPException as error:
            had_session = site.identity.cookie("annotator") in request.cookies
            return site.page("stranger.html", 403, message=error.detail if had_session else "")
        token = site.identity.form_token(request.cookies[site.identity.cookie("annotator")])
        guidelines = as_html(site.store.settings().guidelines)
        return site.page(
            "vote.html", person=annotator.name, who=annotator.pseudonym, token=token, guidelines=guidelines
        )

    async def join(request: Request) -> Response:
        number = site.identity.invited(request.path_params["token"])
        invitation = None if number is None else site.store.invitation(number)
        if number is None or invitation is None:
            message = "This invitation was used already, or is too old. Ask for a new one."
            return site.page("stranger.html", 403, message=message)
        if request.method == "GET":  # previews of links in mails and chats use up nothing
            return site.page("join.html", person=invitation)
        annotator = await asyncio.wrap_future(site.store.writer.submit(lambda project: accept(project, number)))
        if annotator is None:
            return site.page("stranger.html", 403, message="This invitation cannot be used. Ask for a new one.")
        response = RedirectResponse("/", 303)
        cookie = site.identity.session(annotator)
        name = site.identity.cookie("annotator")
        response.set_cookie(name, cookie, max_age=int(SESSION), httponly=True, samesite="strict", secure=site.is_secure)
        return response

    async def next_pairs(request: Request) -> Response:
        annotator = site.annotator(request)
        have = frozenset(filter(None, request.query_params.get("have", "").split(",")))
        html = request.query_params.get("html") == "1"
        shown = await site.show(annotator.id, site.room(len(have)), have)
        cards = [card(site.store.reading, one, site.queue.turns(annotator.id, one.id), html=html) for one in shown]
        return JSONResponse({"pairs": cards, **_progress(site, annotator.id)})

    async def again(request: Request) -> Response:
        annotator = site.annotator(request)
        shown = _own(site, annotator.id, request.path_params["shown"])
        html = request.query_params.get("html") == "1"
        return JSONResponse(card(site.store.reading, shown, site.queue.turns(annotator.id, shown.id), html=html))

    async def votes(request: Request) -> Response:
        annotator = site.annotator(request)
        site.require_form(request, "annotator")
        given = (await read_json(request)).get("votes")
        if not isinstance(given, list) or not 1 <= len(given) <= MOST_VOTES:
            raise HTTPException(400, f"'votes' must be a list of 1 to {MOST_VOTES} votes.")
        shown, rows = [], []
        for one in given:
            shown.append(_own(site, annotator.id, one.get("shown") if isinstance(one, dict) else None))
            rows.append(_read_vote(site, shown[-1], one))
        try:
            kept = await asyncio.wrap_future(site.store.vote(rows))
        except OutOfTurn as error:
            raise HTTPException(409, f"An earlier vote is missing: {error}.") from error
        for one, row in zip(shown, kept, strict=True):
            if row.is_new:
                site.queue.acted(one, row.row.kind, row.row.turn, row.before)
        new = [row.is_new for row in kept]
        return JSONResponse({"kept": len(kept), "new": new, **_progress(site, annotator.id)})

    async def progress(request: Request) -> Response:
        return JSONResponse(_progress(site, site.annotator(request).id))

    return [
        Route("/", home),
        Route("/join/{token}", join, methods=["GET", "POST"]),
        Route("/next", next_pairs),
        Route("/shown/{shown}", again),
        Route("/votes", votes, methods=["POST"]),
        Route("/progress", progress),
    ]


def _progress(site: Site, annotator: int) -> dict[str, Any]:
    queue = site.queue
    return {"mine": queue.done_by(annotator), "votes": queue.votes, "needed": queue.needed}


def _own(site: Site, annotator: int, number: object) -> Shown:
    shown = site.store.shown(number) if isinstance(number, str) else None
    if shown is None or shown.annotator != annotator:
        raise HTTPException(403, "That pair was not shown to you.")
    return shown


def _read_vote(site: Site, shown: Shown, given: dict[str, Any]) -> Vote:
    """A vote as the page sends it.

    Raises:
      HTTPException: 400, a field is not what its name says.
    """
    kind, side, turn = given.get("kind"), given.get("side"), given.get("turn")
    strength, ms, note = given.get("strength"), given.get("ms"), given.get("note", "")
    unknown = set(given) - {"shown", "turn", "kind", "side", "strength", "ms", "note"}
    choice: Choice | None = shown.choice_of(side) if side in _SIDES else None
    is_graded = site.store.settings().strength and side in ("left", "right")
    faults = {
        f"unknown fields {sorted(unknown)}": bool(unknown),
        f"'kind' must be one of {', '.join(_KINDS)}": kind not in _KINDS,
        f"'side' must be one of {', '.join(_SIDES)} in a vote, and absent elsewhere": (
            (kind == "vote") != (choice is not None) or (side is not None and choice is None)
        ),
        "'turn' must be a number, even but for an undo": (
            not isinstance(turn, int) or not _is_whole(turn, 0, 10_000) or (kind == "undo") != (turn % 2 == 1)
        ),
        "'strength' must be 1 to 4, of a side, where the project asks for it": (
            strength is not None and not (is_graded and _is_whole(strength, 1, 4))
        ),
        "'ms' must be milliseconds of at most a day": not _is_whole(ms, 0, LONGEST_MS),
        f"'note' must be text of at most {LONGEST_NOTE} characters": (
            not isinstance(note, str) or len(note) > LONGEST_NOTE or "\0" in note
        ),
    }
    present = [fault for fault, is_there in faults.items() if is_there]
    if present:
        raise HTTPException(400, f"{present[0]}.")
    assert kind in _KINDS and isinstance(turn, int) and isinstance(ms, int) and isinstance(note, str)
    return Vote(shown.id, turn, kind, choice, strength, ms, time.time(), note)


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

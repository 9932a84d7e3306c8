"""Routes of the admin: sign in, see how far the project is and how well people agree, invite and pause people."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from preftree.collect.read import last_vote, read_annotators
from preftree.collect.web.dashboard import Dashboard
from preftree.collect.web.identity import ADMIN_SESSION, invite, is_password
from preftree.collect.web.site import Site, read_json

ATTEMPTS = 5
"""Wrong passwords in a minute, after which none is looked at."""


@dataclass(slots=True)
class _Door:
    """Seconds of the last wrong passwords."""

    wrong: list[float] = field(default_factory=list)


def admin_routes(site: Site) -> list[Route]:
    """The routes of the admin."""
    door, dashboard = _Door(), Dashboard(site.store.path)

    def require_admin(request: Request) -> str:
        cookie = request.cookies.get(site.identity.cookie("admin"), "")
        if not site.identity.is_admin(cookie):
            raise HTTPException(403, "Sign in as the admin first.")
        return cookie

    async def home(request: Request) -> Response:
        cookie = request.cookies.get(site.identity.cookie("admin"), "")
        if not site.identity.is_admin(cookie):
            return site.page("sign_in.html", message="")
        panel = await dashboard.latest(last_vote(site.store.reading))
        people = list(read_annotators(site.store.reading).values())
        known = {person.id: person for person in panel.figures.people} if panel is not None else {}
        invited = site.store.reading.execute(
            """SELECT a.name, i.made, i.until, i.used FROM invitation i JOIN annotator a ON a.id = i.annotator
               ORDER BY i.made DESC LIMIT 50"""
        ).fetchall()
        token, now = site.identity.form_token(cookie), time.time()
        values = {"token": token, "queue": site.queue, "panel": panel, "people": people, "known": known}
        return site.page("admin.html", invited=invited, now=now, **values)

    async def sign_in(request: Request) -> Response:
        now = time.monotonic()
        door.wrong = [then for then in door.wrong if now - then < 60]
        if len(door.wrong) >= ATTEMPTS:
            return site.page("sign_in.html", 429, message="Too many wrong passwords. Wait a minute.")
        given = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=5).get("password", [""])[0]
        door.wrong.append(now)  # taken back where it is right, so that many at once are not all looked at
        if not await asyncio.to_thread(is_password, given, site.store.password_hash()):
            return site.page("sign_in.html", 403, message="That is not the password.")
        door.wrong.remove(now)
        response = RedirectResponse("/admin", 303)
        response.set_cookie(
            site.identity.cookie("admin"),
            site.identity.admin_session(),
            max_age=int(ADMIN_SESSION),
            httponly=True,
            samesite="strict",
            secure=site.is_secure,
        )
        return response

    async def new_invitation(request: Request) -> Response:
        require_admin(request)
        site.require_form(request, "admin")
        name = (await read_json(request)).get("name")
        if not isinstance(name, str) or not name.strip() or len(name) > 80:
            raise HTTPException(400, "A name has 1 to 80 characters.")
        annotator = await asyncio.to_thread(site.store.join, name)
        number = await asyncio.wrap_future(site.store.writer.submit(lambda project: invite(project, annotator.id)))
        return JSONResponse({"name": annotator.name, "link": f"{site.url}/join/{site.identity.invitation(number)}"})

    async def set_state(request: Request) -> Response:
        require_admin(request)
        site.require_form(request, "admin")
        given = await read_json(request)
        number, state = given.get("annotator"), given.get("state")
        if not isinstance(number, int) or state not in ("active", "paused"):
            raise HTTPException(400, "'annotator' must be a number, 'state' active or paused.")
        await asyncio.wrap_future(
            site.store.writer.submit(
                lambda project: project.execute("UPDATE annotator SET state = ? WHERE id = ?", (state, number)).rowcount
            )
        )
        return JSONResponse({"annotator": number, "state": state})

    async def sign_out(request: Request) -> Response:
        require_admin(request)
        site.require_form(request, "admin")
        response = JSONResponse({})
        response.delete_cookie(site.identity.cookie("admin"))
        return response

    return [
        Route("/admin", home),
        Route("/admin/sign-in", sign_in, methods=["POST"]),
        Route("/admin/sign-out", sign_out, methods=["POST"]),
        Route("/admin/invitations", new_invitation, methods=["POST"]),
        Route("/admin/annotators", set_state, methods=["POST"]),
    ]

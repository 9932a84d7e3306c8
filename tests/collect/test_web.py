"""The server: invitations, votes, what is refused, and what annotators never see."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from itsdangerous import URLSafeSerializer, URLSafeTimedSerializer
from scipy.stats import binomtest

import preftree
from preftree.collect.store import SqliteStore, own_project
from preftree.collect.web.app import invitation_link, serve
from preftree.collect.web.identity import Identity
from preftree.errors import ConfigError
from support.collect import (
    PASSWORD,
    Client,
    add_people,
    fork_server,
    make_numbered,
    rows,
    run,
    secret_of,
    served,
    with_settings,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_numbered(tmp_path_factory.mktemp("web") / "P.db", 400, with_settings(overlap=2, lease=600.0))
    add_people(path, 6)
    return path


@pytest.fixture(scope="module")
def port(project: Path) -> Iterator[int]:
    with served(project) as opened:
        yield opened


def client_of(project: Path, port: int, annotator: int = 1) -> Client:
    return Client.of(port, secret_of(project), annotator)


async def first_pair(client: Client) -> dict[str, Any]:
    _, answer = await client.ask("/next")
    return answer["pairs"][0]


def test_vote_undo_and_vote_again(project: Path, port: int) -> None:
    async def talk() -> None:
        client = client_of(project, port)
        card = await first_pair(client)
        number = card["prompt"][0]["text"].split()[1]
        assert {card["left"]["text"], card["right"]["text"]} == {f"first {number}", f"second {number}"}
        before = (await client.ask("/progress"))[1]["mine"]
        status, answer = await client.vote(card, "left", note="why")
        assert (status, answer["new"], answer["mine"]) == (200, [True], before + 1)
        assert (await client.vote(card, "right"))[1]["new"] == [False]
        undo = {"shown": card["shown"], "turn": 1, "kind": "undo", "ms": 0}
        assert (await client.ask("/votes", {"votes": [undo]}))[1]["mine"] == before
        assert (await client.ask(f"/shown/{card['shown']}"))[1]["turn"] == 2
        assert (await client.vote({**card, "turn": 2}, "right"))[0] == 200
        assert (await client.vote({**card, "turn": 6}, "right"))[0] == 409
        kept = rows(project, "SELECT kind, choice, note FROM vote WHERE shown = ? ORDER BY turn", card["shown"])
        words = card["left"]["text"].split()[0], card["right"]["text"].split()[0]
        assert kept == [("vote", words[0], "why"), ("undo", None, ""), ("vote", words[1], "")]
        client.close()

    run(talk())


def test_what_is_no_vote_is_refused_with_a_sentence(project: Path, port: int) -> None:
    async def talk() -> None:
        client = client_of(project, port)
        card = await first_pair(client)
        count = rows(project, "SELECT count(*) FROM vote")
        good = {"shown": card["shown"], "turn": card["turn"], "kind": "vote", "side": "left", "ms": 1}
        changes: list[dict[str, Any]] = [
            {"kind": "like"}, {"side": "up"}, {"side": None}, {"kind": "skip"}, {"turn": -1}, {"turn": 1},
            {"turn": True}, {"turn": "0"}, {"turn": None}, {"ms": -1}, {"ms": 1.5}, {"ms": 10**9}, {"strength": 2},
            {"strength": 9}, {"note": "x" * 2001}, {"note": 5}, {"note": "\0"}, {"choice": "first"},
            {"kind": "undo", "side": None},
        ]  # fmt: skip
        for change in changes:
            status, answer = await client.ask("/votes", {"votes": [good | change]})
            assert status == 400 and answer["error"].endswith("."), change
        for body in (b"{", b"[]", b"\xff", b'"votes"', b'{"votes": []}', b'{"votes": 3}', b"[" * 10_000):
            assert (await client.ask("/votes", body))[0] == 400, body[:20]
        assert (await client.ask("/votes", {"votes": [good] * 501}))[0] == 400
        assert (await client.raw("/votes", b" " * (2**20 + 1)))[0] == 413
        assert rows(project, "SELECT count(*) FROM vote") == count
        client.close()

    run(talk())


def test_many_at_once_never_share_a_pair_beyond_overlap(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 60, with_settings(overlap=2, lease=600.0))
    people = add_people(path, 50)

    async def talk(port: int) -> None:
        clients = [Client.of(port, secret_of(path), number) for number in people]
        answers = await asyncio.gather(*(client.ask("/next") for client in clients))
        assert all(status == 200 for status, _ in answers)
        held = Counter(card["prompt"][0]["text"] for _, answer in answers for card in answer["pairs"])
        assert sum(held.values()) >= 50 and max(held.values()) <= 2
        assert Counter(dict(rows(path, "SELECT pair, count(*) FROM shown GROUP BY pair"))).most_common(1)[0][1] <= 2
        for client in clients:
            client.close()

    with served(path) as port:
        run(talk(port))


def test_an_invitation_works_once(project: Path, port: int) -> None:
    store = SqliteStore(project)
    link = invitation_link(store, "Grace", "").strip()
    store.close()

    async def talk() -> None:
        stranger = Client(port, "", "")
        status, _, page = await stranger.raw("/")
        assert status == 403 and b"invitation" in page
        for _ in range(2):  # a preview of the link uses up nothing
            status, _, page = await stranger.raw(link)
            assert status == 200 and b"Grace" in page
        status, headers, _ = await stranger.raw(link, b"")
        assert status == 303 and headers["location"] == "/"
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        stranger.cookie = cookie.partition(";")[0]
        status, _, page = await stranger.raw("/")
        assert status == 200 and b"Grace" in page
        status, _, page = await Client(port, "", "").raw(link, b"")
        assert status == 403 and b"used already" in page

    run(talk())


Forgery = Callable[[Client, dict[str, Any], "Client", dict[str, Any], Path], tuple[Client, str, Any]]


def _header(name: str, value: str) -> Forgery:
    return lambda me, card, other, theirs, path: (replace(me, writer=None, extra={name: value}), "/votes", card)


def _cookie(make: Callable[[Identity, Client, Client], str]) -> Forgery:
    def forge(me: Client, card: dict[str, Any], other: Client, theirs: dict[str, Any], path: Path) -> Any:
        identity = Identity(secret_of(path))
        cookie = make(identity, me, other).replace("annotator=", identity.cookie("annotator") + "=")
        return replace(me, writer=None, cookie=cookie), "/votes", card

    return forge


def _to(path: str, body: Any = None, cookie: str = "", token: str = "") -> Forgery:
    def forge(me: Client, card: dict[str, Any], other: Client, theirs: dict[str, Any], project: Path) -> Any:
        identity = Identity(secret_of(project))
        made = {"": me.cookie, "admin": f"{identity.cookie('admin')}={identity.admin_session()}"}[cookie]
        return replace(me, writer=None, cookie=made, token=token or me.token), path, {} if body is None else body

    return forge


OTHERS = URLSafeTimedSerializer(b"another secret", salt="session")
INVITE = {"name": "Mallory"}
FORGERIES: dict[str, Forgery] = {
    "no token": _header("X-Token", ""),
    "a wrong token": _header("X-Token", "x"),
    "a token in another alphabet": _header("X-Token", "ä".encode().decode("latin1")),
    "no origin": _header("Origin", ""),
    "a foreign origin": _header("Origin", "https://evil.example"),
    "origin null": _header("Origin", "null"),
    "an origin of another port": _header("Origin", "http://127.0.0.1:1"),
    "an origin with a tail": _header("Origin", "http://127.0.0.1.evil.example"),
    "a wrong host": _header("Host", "evil.example"),
    "a host with a tail": _header("Host", "127.0.0.1.evil.example"),
    "a host of another port": _header("Host", "127.0.0.1:1"),
    "an empty host": _header("Host", " "),
    "a form of another page": lambda me, card, other, theirs, path: (
        replace(me, writer=None, extra={"Content-Type": "text/plain", "Origin": "https://evil.example"}), "/votes", card
    ),
    "another's token": lambda me, card, other, theirs, path: (
        replace(me, writer=None, token=other.token), "/votes", card
    ),
    "another's pair": lambda me, card, other, theirs, path: (replace(me, writer=None), "/votes", theirs),
    "a pair that is none": lambda me, card, other, theirs, path: (
        replace(me, writer=None), "/votes", {"votes": [card["votes"][0] | {"shown": "AAAAAAAAAAAAAAAA"}]}
    ),
    "a pair by number": lambda me, card, other, theirs, path: (
        replace(me, writer=None), "/votes", {"votes": [card["votes"][0] | {"shown": 1}]}
    ),
    "another's pair beside an own one": lambda me, card, other, theirs, path: (
        replace(me, writer=None), "/votes", {"votes": card["votes"] + theirs["votes"]}
    ),
    "another's pair is looked at": lambda me, card, other, theirs, path: (
        replace(me, writer=None), f"/shown/{theirs['votes'][0]['shown']}", None
    ),
    "no cookie": _cookie(lambda identity, me, other: ""),
    "an empty cookie": _cookie(lambda identity, me, other: "annotator="),
    "a cookie without signature": _cookie(lambda identity, me, other: "annotator=1"),
    "a cookie with a changed number": _cookie(
        lambda identity, me, other: "annotator=Mg" + me.cookie.partition("=")[2][2:]
    ),
    "a cookie of another secret": _cookie(lambda identity, me, other: f"annotator={OTHERS.dumps(1)}"),
    "an admin's cookie": _cookie(lambda identity, me, other: f"annotator={identity.admin_session()}"),
    "an invitation for a cookie": _cookie(lambda identity, me, other: f"annotator={identity.invitation('1')}"),
    "a token for a cookie": _cookie(lambda identity, me, other: f"annotator={me.token}"),
    "somebody who is nobody": _cookie(lambda identity, me, other: f"annotator={identity.session(10**6)}"),
    "an invitation by an annotator": _to("/admin/invitations", INVITE),
    "an invitation with an annotator's token": _to("/admin/invitations", INVITE, cookie="admin"),
    "an invitation with a wrong token": _to("/admin/invitations", INVITE, cookie="admin", token="x"),
    "a pause by an annotator": _to("/admin/annotators", {"annotator": 2, "state": "paused"}),
    "a pause without its token": _to("/admin/annotators", {"annotator": 2, "state": "paused"}, cookie="admin"),
    "a sign-out without its token": _to("/admin/sign-out", {}, cookie="admin"),
    "a join with no link of ours": _to("/join/abc.def", b""),
    "a join with a link of another secret": _to(
        "/join/" + URLSafeSerializer(b"another secret", salt="invitation").dumps("abc"), b""
    ),
    "a wrong password": _to("/admin/sign-in", b"password=guess"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sent(project: Path, port: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A vote that would be taken, of two people."""

    async def talk() -> list[dict[str, Any]]:
        found = []
        for annotator in (3, 4):
            client = client_of(project, port, annotator)
            card = await first_pair(client)
            vote = {"shown": card["shown"], "turn": card["turn"], "kind": "vote", "side": "left", "ms": 1}
            found.append({"votes": [vote]})
            client.close()
        return found

    mine, theirs = run(talk())
    return mine, theirs


def all_rows(project: Path) -> list[Any]:
    return [rows(project, f"SELECT * FROM {table}") for table in ("vote", "annotator", "invitation", "shown")]


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_request_is_refused_and_leaves_no_row(name: str, project: Path, port: int, sent) -> None:
    me, other = client_of(project, port, 3), client_of(project, port, 4)
    before = all_rows(project)
    client, path, body = FORGERIES[name](me, sent[0], other, sent[1], project)
    status, _, _ = run(client.raw(path, body))
    # Nothing tells a host that is none from a broken request.
    assert status == 403 or (name == "an empty host" and status == 400)
    assert all_rows(project) == before


def test_there_are_thirty_forgeries_and_the_true_request_passes(project: Path, port: int, sent) -> None:
    assert len(FORGERIES) >= 30
    status, answer = run(client_of(project, port, 3).ask("/votes", sent[0]))
    assert status == 200 and answer["new"] == [True]


def test_browsers_are_told_what_they_may_load(project: Path, port: int) -> None:
    client = client_of(project, port)
    status, headers, page = run(client.raw("/"))
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    text = page.decode()
    assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|<style|https?://", text)


def test_annotators_see_no_model_no_file_and_no_seed(tmp_path: Path) -> None:
    from preftree.collect.fill import make_project

    secret_names = ("zebra", "quokka", "tapir", "4711", "deadbeef")
    for name in ("zebra-7b", "quokka-13b"):
        lines = [f'{{"prompt": "p {n}", "response": "{name[0]} answers {n}"}}' for n in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    path = tmp_path / "tapir.db"
    files = tuple(str(tmp_path / f"{name}.jsonl") for name in ("zebra-7b", "quokka-13b"))
    make_project(path, with_settings(lease=600.0, repeats=0.2), password_hash="-", responses=files)
    add_people(path, 1)
    store = SqliteStore(path)
    store.writer.submit(lambda p: p.execute("UPDATE response SET seed = 4711, digest = 'deadbeef'")).result()
    store.close()
    seen: list[bytes] = []

    async def talk(port: int) -> None:
        client = Client.of(port, secret_of(path), 1)
        for page in ("/", "/static/vote.js", "/static/style.css", "/progress", "/nothing", "/shown/none"):
            seen.append(str(await client.raw(page)).encode())
        for _ in range(60):
            _, headers, content = await client.raw("/next?html=1")
            seen.append(str(headers).encode() + content)
            cards = json.loads(content)["pairs"]
            if not cards:
                break
            for card in cards:
                seen.append(str(await client.raw(f"/shown/{card['shown']}?html=1")).encode())
                seen.append(str(await client.vote(card, "left")).encode())
                seen.append(str(await client.vote(card, "sideways")).encode())

    with served(path) as port:
        run(talk(port))
    assert len(seen) > 100 and rows(path, "SELECT count(*) FROM vote")[0][0] >= 40
    for word in secret_names:
        assert not [text for text in seen if word.encode() in text.lower()], word
    left = rows(path, "SELECT sum(first_is_left), count(*) FROM shown WHERE visit = 0")[0]
    assert binomtest(*left).pvalue > 0.01


def test_a_full_disk_is_told_and_the_votes_are_taken_when_there_is_room(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 50, with_settings(lease=600.0))
    add_people(path, 1)
    pages = rows(path, "PRAGMA page_count")[0][0]
    votes: list[dict[str, Any]] = []

    def no_room(store: SqliteStore) -> None:
        limit = f"PRAGMA max_page_count = {pages + 1}"
        store.writer.submit(lambda project: project.execute(limit).fetchone()).result()

    async def talk(port: int) -> list[int]:
        client = Client.of(port, secret_of(path), 1)
        status, answer = await client.ask("/next")
        found = [status]
        for card in answer.get("pairs", []):
            vote = {"shown": card["shown"], "turn": 0, "kind": "vote", "side": "left", "ms": 1, "note": "n" * 1500}
            votes.append(vote)
            status, answer = await client.ask("/votes", {"votes": [vote]})
            assert status == 200 or answer["error"] == "The server's disk refuses"
            found.append(status)
        return found

    async def again(port: int) -> None:
        client = Client.of(port, secret_of(path), 1)
        for vote in votes:
            assert (await client.ask("/votes", {"votes": [vote]}))[0] == 200

    with served(path, lambda path, port: fork_server(path, port, no_room)) as port:
        found = run(talk(port))
    kept = rows(path, "SELECT count(*) FROM vote")[0][0]
    assert set(found) <= {200, 503} and 503 in found and kept == found[1:].count(200)
    with served(path) as port:
        run(again(port))
    assert rows(path, "SELECT count(*) FROM vote")[0][0] == len(votes) > 0


def test_who_is_paused_cannot_vote(project: Path, port: int) -> None:
    store = SqliteStore(project)
    store.writer.submit(lambda p: p.execute("UPDATE annotator SET state = 'paused' WHERE id = 5")).result()
    store.close()
    status, answer = run(client_of(project, port, 5).ask("/next"))
    assert status == 403 and "paused" in answer["error"]


def test_the_admin_signs_in_with_the_password_and_after_five_wrong_ones_waits(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 3, with_settings())

    async def talk(port: int) -> list[int]:
        client = Client(port, "", "")
        right = f"password={PASSWORD.replace(' ', '+')}".encode()
        status, headers, _ = await client.raw("/admin/sign-in", right)
        assert status == 303
        client.cookie = headers["set-cookie"].partition(";")[0]
        status, _, page = await client.raw("/admin")
        assert status == 200 and b"Invitations" in page
        client.token = re.findall(r'data-token="([^"]+)"', page.decode())[0]
        status, answer = await client.ask("/admin/invitations", {"name": " Ada "})
        assert status == 200 and answer["name"] == "Ada" and f"http://127.0.0.1:{port}/join/" in answer["link"]
        assert (await client.ask("/admin/annotators", {"annotator": 1, "state": "paused"}))[0] == 200
        assert rows(path, "SELECT name, state FROM annotator") == [("Ada", "paused")]
        return [(await client.raw("/admin/sign-in", b"password=no"))[0] for _ in range(6)] + [
            (await client.raw("/admin/sign-in", right))[0]
        ]

    with served(path) as port:
        assert run(talk(port)) == [403] * 5 + [429, 429]


def test_a_server_that_others_reach_has_to_be_asked_for(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 3, with_settings())
    with own_project(path) as store:
        for host in ("0.0.0.0", "192.168.1.2", "::"):
            with pytest.raises(ConfigError, match="--public"):
                serve(store, host, 0, public_url=None, started=lambda url: None)


def test_the_command_serves_without_torch_and_writes_no_secret_to_the_log(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 5, with_settings())
    code = (
        "import sys, threading\n"
        "from preftree.cli.main import app\n"
        "def look():\n"
        "    sys.stdin.readline()\n"  # the test has voted
        "    print('torch', 'torch' in sys.modules, 'transformers', 'transformers' in sys.modules, flush=True)\n"
        "threading.Thread(target=look, daemon=True).start()\n"
        f"sys.argv[1:] = ['collect', 'serve', {str(path)!r}, '--port', '0', '--me', 'Ada']\n"
        "app()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(preftree.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None and server.stdin is not None
    link = re.findall(r"http\S+", server.stdout.readline())[0]
    port, token = int(re.findall(r":(\d+)/", link)[0]), link.rpartition("/")[2]

    async def talk() -> str:
        client = Client(port, "", "")
        _, headers, _ = await client.raw(f"/join/{token}", b"")
        client.cookie = headers["set-cookie"].partition(";")[0]
        _, _, page = await client.raw("/")
        client.token = re.findall(r'data-token="([^"]+)"', page.decode())[0]
        assert (await client.vote(await first_pair(client)))[0] == 200
        await client.raw("/admin/sign-in", b"password=hunter2hunter2")
        await client.raw("/votes", b"{")
        return client.cookie.partition("=")[2] + "\n" + client.token

    try:
        secrets = [*run(talk()).split("\n"), token, "hunter2", secret_of(path).hex(), PASSWORD]
        server.stdin.write("\n")
        server.stdin.flush()
        lines = [server.stdout.readline() for _ in range(3)]
        assert "torch False transformers False\n" in lines
    finally:
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=20)
    assert not [secret for secret in secrets if secret in out + err + "".join(lines)], err
    assert rows(path, "SELECT count(*) FROM vote") == [(1,)]

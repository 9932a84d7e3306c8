"""The voting page in a real browser, by keyboard: Debian's Chromium, driven by playwright."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from preftree.collect.fill import Filling
from preftree.collect.records import Settings
from preftree.collect.store import SqliteStore
from preftree.collect.web.app import invitation_link
from preftree.collect.web.identity import Identity
from support.collect import PASSWORD, add_people, end, free_port, make_numbered, rows, secret_of, served, spawn_server
from support.collect import with_settings as settings_with
from support.payloads import PAYLOADS

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")

BETWEEN = 240
"""Milliseconds between two presses: the page takes a second one within 120 for the first one's bounce."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    contexts: list[Any] = []

    def opened(path: Path, port: int, annotator: int = 1, **look: Any) -> Any:
        """The voting page of an annotator; what goes wrong in it fails the test."""
        context = browser.new_context(viewport={"width": 1200, "height": 800}, **look)
        contexts.append(context)
        identity = Identity(secret_of(path))
        cookie = {"name": identity.cookie("annotator"), "value": identity.session(annotator)}
        context.add_cookies([cookie | {"url": f"http://127.0.0.1:{port}"}])
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("dialog", lambda dialog: page.faults.append(dialog.message))
        page.on("request", lambda r: None if f"127.0.0.1:{port}/" in r.url else page.faults.append(r.url))
        page.goto(f"http://127.0.0.1:{port}/")
        wait_for_pair(page)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = make_numbered(tmp_path / "P.db", 120, settings_with(lease=600.0))
    add_people(path, 2)
    return path


def wait_for_pair(page: Any) -> None:
    until(page, "document.querySelector('#left .text').textContent !== ''")


def until(page: Any, condition: str, seconds: float = 15.0) -> None:
    """Wait for a condition; playwright's own way needs `eval`, which the page's policy forbids."""
    from playwright.sync_api import Error

    def holds() -> bool:
        try:
            return page.evaluate(condition)
        except Error as error:  # between two pages there is nothing to ask
            if "context was destroyed" in str(error):
                return False
            raise

    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{condition}: {page.inner_text('body')[:600]}"
        page.wait_for_timeout(40)


def press(page: Any, keys: str) -> None:
    for key in keys:
        page.wait_for_timeout(BETWEEN)
        page.keyboard.press(key)


def wait_until_saved(page: Any) -> None:
    until(page, "document.getElementById('status').textContent === 'All votes are saved'")


def kinds(path: Path) -> list[tuple]:
    return rows(path, "SELECT kind, choice, note FROM vote ORDER BY id")


def choice_on_screen(page: Any, side: str) -> str:
    """`first` or `second`: which response of the pair stands there."""
    return page.inner_text(f"#{side} .text").split()[0]


def is_wide(page: Any) -> bool:
    """Whether something stands out to the right."""
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def test_an_evening_by_keyboard(project: Path, browser: Any, tmp_path: Path) -> None:
    store = SqliteStore(project)
    link = invitation_link(store, "Ada", "")
    store.close()
    with served(project, spawn_server) as port:
        context = browser.new_context(viewport={"width": 1200, "height": 800})
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}{link}")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # Begin
        wait_for_pair(page)
        expected = []
        for key, side in (("1", "left"), ("2", "right"), ("0", None), ("x", None)):
            choice = {"0": "tie", "x": "bad"}.get(key) or choice_on_screen(page, str(side))
            press(page, key)
            expected.append(("vote", choice, ""))
        wait_until_saved(page)
        assert kinds(project) == expected

        page.wait_for_timeout(BETWEEN)  # a bounce of the key
        page.evaluate("""() => { for (const wait of [0, 30]) setTimeout(() =>
            document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', bubbles: true})), wait); }""")
        page.wait_for_timeout(100)
        wait_until_saved(page)
        assert len(kinds(project)) == 5

        text = page.inner_text("#left .text")
        press(page, "1")
        press(page, "u")
        assert page.inner_text("#left .text") == text and "Taken back" in page.inner_text("#said")
        press(page, "2")
        press(page, "sf")
        wait_until_saved(page)
        assert [kind for kind, *_ in kinds(project)[5:]] == ["vote", "undo", "vote", "skip", "flag"]

        press(page, "n")
        page.keyboard.type("unsure 12x")  # keys of votes are letters here
        page.keyboard.press("Enter")
        press(page, "0")
        wait_until_saved(page)
        assert kinds(project)[-1] == ("vote", "tie", "unsure 12x")

        press(page, "?")
        press(page, "1")  # behind the guide nothing is voted on
        assert page.is_visible("#guide")
        page.keyboard.press("Escape")

        before, text = len(kinds(project)), page.inner_text("#left .text")
        page.reload()
        wait_for_pair(page)
        assert page.inner_text("#left .text") == text
        page.goto(f"http://127.0.0.1:{port}/progress")
        page.go_back()
        wait_for_pair(page)
        assert page.inner_text("#left .text") == text and len(kinds(project)) == before
        press(page, "u")  # also after a reload
        wait_until_saved(page)
        assert kinds(project)[-1][0] == "undo"

        page.evaluate("""() => { Object.defineProperty(document, 'hidden', {value: true, configurable: true});
            document.dispatchEvent(new Event('visibilitychange')); }""")
        page.wait_for_timeout(900)
        page.evaluate("""() => { Object.defineProperty(document, 'hidden', {value: false});
            document.dispatchEvent(new Event('visibilitychange')); }""")
        press(page, "1")
        wait_until_saved(page)
        assert rows(project, "SELECT ms FROM vote ORDER BY id DESC LIMIT 1")[0][0] < 800
        context.close()


def votes_through_an_outage(project: Path, open_page: Any, votes: int, seconds: float) -> Any:
    port = free_port()
    child = spawn_server(project, port)
    try:
        page = open_page(project, port)
        press(page, "12")
        wait_until_saved(page)
    finally:
        end(child)
    begun = time.monotonic()
    press(page, "102x10021"[:votes])
    assert "The server is away" in page.inner_text("#status") and "kept here" in page.inner_text("#status")
    assert len(kinds(project)) == 2
    page.wait_for_timeout(max(0, 1000 * (seconds - (time.monotonic() - begun))))
    child = spawn_server(project, port)
    try:
        wait_until_saved(page)
        assert len(kinds(project)) == 2 + votes
        page.wait_for_timeout(500)
        assert len(kinds(project)) == 2 + votes
        press(page, "1")
        wait_until_saved(page)
        assert len(kinds(project)) == 3 + votes and page.faults == []
    finally:
        end(child)


def test_votes_go_on_while_the_server_is_away_and_arrive_once(project: Path, open_page: Any) -> None:
    votes_through_an_outage(project, open_page, 4, 1.0)


@pytest.mark.slow
def test_votes_go_on_for_ten_seconds_without_the_server(project: Path, open_page: Any) -> None:
    votes_through_an_outage(project, open_page, 9, 10.0)


def test_unsent_votes_survive_that_the_page_is_closed(project: Path, open_page: Any) -> None:
    port = free_port()
    child = spawn_server(project, port)
    try:
        page = open_page(project, port)
    finally:
        end(child)
    press(page, "12u")
    page.close()
    child = spawn_server(project, port)
    try:
        again = page.context.new_page()
        again.goto(f"http://127.0.0.1:{port}/")
        wait_for_pair(again)
        wait_until_saved(again)
        assert [kind for kind, *_ in kinds(project)] == ["vote", "vote", "undo"]
    finally:
        end(child)


def test_it_fits_a_phone_a_zoomed_and_a_dark_screen(tmp_path: Path, open_page: Any) -> None:
    path = make_numbered(tmp_path / "P.db", 40, settings_with(strength=True))
    add_people(path, 1)
    with served(path, spawn_server) as port:
        page = open_page(path, port)
        light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        for width, height in ((360, 640), (640, 400), (1600, 900)):  # 640: 1280 at 200 %
            page.set_viewport_size({"width": width, "height": height})
            assert not is_wide(page), width
            for button in page.query_selector_all("[data-vote], [data-do]"):
                button.scroll_into_view_if_needed()
                box = button.bounding_box()
                assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] >= 24, width
        page.set_viewport_size({"width": 360, "height": 640})
        page.click("[data-strength='3']")
        page.click("[data-vote='left']")
        wait_until_saved(page)
        assert rows(path, "SELECT kind, strength FROM vote") == [("vote", 3)]
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != light


def fill(path: Path, texts: list[str]) -> None:
    """Pairs of which prompt, both responses and the model's name are a text."""
    store = SqliteStore(path)

    def add(project: Any) -> None:
        filling = Filling.of(project)
        for number, text in enumerate(texts):
            item = filling.item(text)
            two = [filling.response(item, f"{text}{end}", f"{text} {number}") for end in ("", " ")]
            filling.pair(item, two[0], two[1])

    store.writer.submit(add).result()
    store.close()


def test_long_responses_scroll(tmp_path: Path, open_page: Any) -> None:
    path = make_numbered(tmp_path / "P.db", 0, settings_with())
    add_people(path, 1)
    fill(path, ["word " * 10_000 + "end"])
    with served(path, spawn_server) as port:
        page = open_page(path, port)
        assert page.evaluate("document.documentElement.scrollHeight") > 3000
        assert page.is_visible("[data-vote='left']") and not is_wide(page)
        page.keyboard.press("End")
        until(page, "scrollY > 1000")
        page.set_viewport_size({"width": 360, "height": 640})
        assert page.evaluate("(e => e.scrollHeight > e.clientHeight)(document.querySelector('#left'))")


FOREIGN = (
    "script:not([src^='/static/']), img, iframe, svg, object, embed, style, base, video, form[action^=javascript], "
)
FOREIGN += "math, link:not([href^='/static/']), meta[http-equiv], main input[autofocus], main a[href^='javascript'], "
FOREIGN += "main a[href^='data'], main [onerror], main [onload]"


def test_sixty_payloads_are_text(tmp_path: Path, open_page: Any) -> None:
    path = make_numbered(tmp_path / "P.db", 0, settings_with())
    add_people(path, 1)
    fill(path, PAYLOADS)
    store = SqliteStore(path)
    store.writer.submit(lambda p: p.execute("UPDATE annotator SET name = ?", (PAYLOADS[0],))).result()
    store.close()
    seen = set()
    with served(path, spawn_server) as port:
        page = open_page(path, port)
        for _ in range(90):
            if len(seen) == len(PAYLOADS):
                break
            text = page.evaluate("document.querySelector('#left .text').textContent")
            seen.add(text.strip())
            assert page.evaluate("document.querySelectorAll('#left .text *, #right .text *').length") == 0
            assert page.query_selector_all(FOREIGN) == []
            press(page, "0")
        assert seen == {payload.strip() for payload in PAYLOADS}
        assert page.evaluate("window.hacked") is None and page.faults == []


def test_formatted_payloads_load_and_run_nothing(tmp_path: Path, open_page: Any) -> None:
    path = make_numbered(tmp_path / "P.db", 0, settings_with(guidelines="\n\n".join(PAYLOADS)))
    add_people(path, 1)
    fill(path, ["\n\n".join(PAYLOADS) + "\n\n**bold** <b>not</b>"])
    store = SqliteStore(path)
    store.join(PAYLOADS[1])
    store.join(PAYLOADS[13])
    store.close()
    with served(path, spawn_server) as port:
        page = open_page(path, port)
        page.keyboard.press("Escape")  # the guide, which is open as there are guidelines
        press(page, "m")
        page.wait_for_selector("#left strong")
        assert page.inner_text("#left strong") == "bold" and "<b>not</b>" in page.inner_text("#left .text")
        assert page.query_selector_all(FOREIGN) == []
        for link in page.query_selector_all("main a, dialog a"):
            assert link.get_attribute("href").startswith(("http:", "https:")), link
        press(page, "n")
        page.keyboard.type(PAYLOADS[0])
        page.keyboard.press("Enter")
        press(page, "f")
        wait_until_saved(page)
        page.goto(f"http://127.0.0.1:{port}/admin")
        page.fill("#password", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("#invite")
        assert PAYLOADS[1] in page.inner_text("main")
        assert page.query_selector_all(FOREIGN) == []
        assert page.evaluate("window.hacked") is None and page.faults == []


@pytest.mark.slow
def test_sixty_votes_with_sixty_keys(project: Path, open_page: Any) -> None:
    with served(project, spawn_server) as port:
        page = open_page(project, port)
        press(page, "120x" * 15)
        wait_until_saved(page)
        assert len(kinds(project)) == 60 and {kind for kind, *_ in kinds(project)} == {"vote"}
        press(page, "u" * 20)
        wait_until_saved(page)
        assert [kind for kind, *_ in kinds(project)[60:]] == ["undo"] * 20
        press(page, "1" * 20)
        wait_until_saved(page)
        assert len(kinds(project)) == 100 and page.faults == []


@pytest.mark.slow
def test_axe_finds_nothing_serious(tmp_path: Path, open_page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    path = make_numbered(tmp_path / "P.db", 20, Settings(strength=True, guidelines="# Guide\n- one\n- two"))
    add_people(path, 2)
    with served(path, spawn_server) as port:
        page = open_page(path, port)
        found = {"guide": Axe().run(page)}
        page.keyboard.press("Escape")
        found["vote"] = Axe().run(page)
        press(page, "m1")
        wait_until_saved(page)
        page.emulate_media(color_scheme="dark")
        found["dark"] = Axe().run(page)
        page.set_viewport_size({"width": 360, "height": 640})
        found["phone"] = Axe().run(page)
        page.goto(f"http://127.0.0.1:{port}/admin")
        found["sign in"] = Axe().run(page)
        page.fill("#password", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("#invite")
        found["admin"] = Axe().run(page)
        page.emulate_media(color_scheme="light")
        found["light admin"] = Axe().run(page)
    faults = [
        (name, fault["impact"], fault["id"], [node["html"] for node in fault["nodes"]])
        for name, results in found.items()
        for fault in results.response["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert faults == []

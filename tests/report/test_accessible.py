"""Pages in a real browser: axe finds nothing serious, at two widths and in two themes; none overflows its screen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from preftree.report.page import run_page
from preftree.report.runs_page import write_runs_page
from preftree.run_folder.reader import read_run
from support.runs import dpo_rows, write_run

CHROMIUM = shutil.which("chromium")
TOKENS = [{"text": f" word{n}", "reward": (n - 5) / 10} for n in range(11)]
MEASURED = {
    "answers": [{"prompt": "Why? " * 30, "before": "no idea " * 40, "after": "because"}],
    "frontier": [
        {"step": step, "kl": step / 9, "kl_low": 0, "kl_high": 3, "reward": 1, "reward_low": 0.5, "reward_high": 1.5}
        for step in (1, 9)
    ],
    "token_rewards": [{"prompt": "?", "chosen": TOKENS, "rejected": TOKENS, "beta": 0.1}],
}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_axe_finds_nothing_serious(tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    run = write_run(tmp_path / "runs" / "one", dpo_rows(60, eval_every=10), measured=MEASURED)
    single, index = tmp_path / "one.html", tmp_path / "all.html"
    single.write_text(run_page([read_run(run)]), "utf-8")
    write_runs_page(tmp_path / "runs", index)
    violations: list[tuple[Any, ...]] = []
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for theme, width in (("light", 1280), ("dark", 400)):
            page = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=theme, bypass_csp=True
            ).new_page()
            for path in (single, index):
                page.goto(path.as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                for violation in Axe().run(page).response["violations"]:
                    if violation["impact"] in ("serious", "critical"):
                        violations.append((path.name, theme, violation["id"], violation["nodes"][0]["html"]))
        browser.close()
    assert violations == []

"""The page: what it says, that it needs nothing else, that no text becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from preftree.errors import DataError, WriteError
from preftree.report.demo.page import demo_page
from preftree.report.first_screen import conclude_run
from preftree.report.page import run_page, write_report
from preftree.run_folder.reader import Run, read_run
from support.runs import dpo_rows, run_of, write_run

VOID = {"meta", "link", "path", "br", "hr", "img", "input"}


class Dom(HTMLParser):
    """Elements with their attributes, checked for balance, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def measured(text: str = "words") -> dict[str, Any]:
    token = {"text": text, "reward": 0.5}
    return {
        "frontier": [{"step": step, "kl": step / 50, "reward": 0.4 + step / 400, text: 1} for step in (0, 50, 100)],
        "temperature": [{"name": text, "temperature": t, "value": 0.6, "low": 0.5, "high": 0.7} for t in (0, 1)],
        "temperature_figure": text,
        "samples": [{"prompt": text, "reference": text, "policy": text, "policy_reward": 0.9}],
        "token_rewards": [
            {
                "prompt": text,
                "chosen": [token, {"text": text, "reward": None}],
                "rejected": [token],
                "beta": 0.1,
                "where": text,
            }
        ],
    }


def a_run(folder: Path, **options: Any) -> Run:
    return read_run(write_run(folder, dpo_rows(100, eval_every=25), measured=measured(), **options))


def results(text: str = "words") -> dict[str, Any]:
    points = [
        {"beta": 0.1, "seed": seed, "step": s, "kl": s / 25, "reward": 0.4 + s / 400}
        for seed in (0, 1)
        for s in (0, 100)
    ]
    return {
        "world": {"name": text, "start_reward": 0.4, text: [{text: text}]},
        "optimum": [{"beta": 1 / s, "kl": s, "reward": 0.4 + 0.14 * s} for s in (1e-9, 1, 2, 4)],
        "methods": {text: points, "best of n": [{"kl": 0.2, "reward": 0.5, "n": 2}]},
        "bandit": {text: {"0.1": 1e-9}},
        "texts": [{"prompt": text, "responses": {"reference": {"text": text, "reward": 0.2}, text: {"text": text}}}],
        "seconds": {text: 12.5},
        "samples": measured(text)["samples"],
        "token_rewards": measured(text)["token_rewards"],
    }


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run_page([a_run(tmp_path_factory.mktemp("page") / "my-run")])


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pages")
    return run_page([a_run(folder / "one"), a_run(folder / "two", beta=0.7, lr=5e-6)])


def test_first_screen_says_what_was_trained_whether_it_worked_and_what_to_worry_about(single: str) -> None:
    text = Dom(single).text
    assert "my-run models/sft, optimised on the preferences of prefs.jsonl with the loss dpo at beta 0.1" in text
    assert "100 steps over 6,400 pairs, rmsprop at 1e−6, seed 0." in text
    accuracy = [row["accuracy"] for row in dpo_rows(100, eval_every=25) if "split" in row][-1]
    assert f"Did it work? Yes It ranks {100 * accuracy:.1f} % of held-out pairs as labelled (95 % interval" in text
    assert "What to look at No problems found 10 checks clear" in text


def test_sections_and_record(single: str) -> None:
    dom = Dom(single)
    for heading in ("Reward and KL", "Learning curves", "Sampling temperature", "Samples", "Checks", "What was run"):
        assert heading in dom.text
    for chart in (
        "Loss",
        "Accuracy",
        "Margin",
        "Logratios",
        "Log-probs",
        "Gradient weight",
        "Gradient norm",
        "Throughput",
    ):
        assert any(attrs.get("aria-label", "").startswith(f"{chart}:") for _, attrs in dom.elements), chart
    assert "7f3a7f3a7f3a" in dom.text and "c21ec21ec21e" in dom.text  # digests of start model and data
    for option in ("max_grad_norm", "data.order", "environment: torch"):
        assert option in dom.text


def test_comparison_lays_curves_over_each_other_and_lists_what_differs(compared: str) -> None:
    dom = Dom(compared)
    assert "one, two, all on prefs.jsonl. They differ in beta, lr." in dom.text
    assert "Too close to call" in dom.text  # the same rows twice
    assert re.search(r"beta 0\.1 0\.7 lr 1e−6 5e−6", dom.text)
    labels = [attrs["aria-label"] for _, attrs in dom.elements if "aria-label" in attrs]
    assert "Logratios, chosen: one, one, held out, two, two, held out" in labels


def test_demo_sets_methods_against_the_optimum() -> None:
    dom = Dom(demo_page(results("dpo")))
    assert "The dpo world" in dom.text
    # Both seeds end at KL 4 with .65, where the start is .4 and the optimum .96.
    assert "dpo, beta 0.1 raises the expected reward from 0.400 to 0.650 at KL 4.00" in dom.text
    assert "no policy can reach more than 0.960: 44.6 % of the possible gain" in dom.text and "Unclear" in dom.text
    assert "dpo 1e−9 Time" in dom.text and "12.5 s" in dom.text


def test_demo_takes_runs_too(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "b1"), a_run(tmp_path / "b2", beta=0.2)]
    text = Dom(demo_page(results(), runs)).text
    assert text.index("Reward and KL") < text.index("The runs") < text.index("Learning curves") < text.index("Checks")


def test_results_of_another_form_are_named() -> None:
    with pytest.raises(DataError, match=r"results: methods\.dpo\.0\.kl: .* as results\.json has it"):
        demo_page({"methods": {"dpo": [{"reward": 0.5}]}})


@pytest.mark.parametrize("page", ["single", "compared"])
def test_nothing_is_loaded_and_only_its_own_script_may_run(page: str, request: pytest.FixtureRequest) -> None:
    html = request.getfixturevalue(page)
    dom = Dom(html)
    for tag, attrs in dom.elements:
        assert not {"src", "srcset", "action", "formaction", "poster", "data", "background"} & attrs.keys(), (
            tag,
            attrs,
        )
        assert not any(name.startswith("on") for name in attrs)
        if "href" in attrs:
            assert attrs["href"] == "data:," or attrs["href"].startswith("#")
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp|import\(", html)
    policy = next(attrs["content"] for tag, attrs in dom.elements if attrs.get("http-equiv"))
    assert policy and "default-src 'none'" in policy and "unsafe-eval" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy


def test_hover_data_is_json_of_places_inside_the_box(single: str) -> None:
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', single, re.DOTALL)
    assert len(blocks) >= 12
    for block in blocks:
        for line in json.loads(block)["series"]:
            assert line["name"] and line["points"]
            assert all(0 <= x <= 1 and 0 <= y <= 1 and at and text for x, y, at, text in line["points"])


PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "</title><svg onload=alert(1)>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "--><script>alert(1)</script><!--",
    "<!--",
    "<![CDATA[<b>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "</textarea></pre><iframe srcdoc='<b>'>",
    "&lt;b&gt;&#60;b&#62;",
    "\u2028\u2029\x00<b>",
    "<a href=https://example.org>",
    "`${alert(1)}`",
    "</article></main><form action=//example.org>",
    "<style>*{display:none}</style>",
    "\\u003cscript\\u003e",
    "</SCRIPT ><ScRiPt>alert(1)//",
]


def shape(page: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(tag, tuple(sorted(attrs))) for tag, attrs in Dom(page).elements]


def loaded_page(folder: Path, text: str) -> str:
    """A page with the text in every place that data reaches."""
    rows = [row | {f"x{text}": 1.0} for row in dpo_rows(12, eval_every=6)]
    rows[10][f"y{text}"] = math.nan
    rows.append({"split": "stop", "step": 13, "error": text})
    options = {"model": text, "data": {"path": text}, "optimizer": text, "reference": text, text: text}
    run = read_run(write_run(folder, rows, measured=measured(text), **options))
    run = Run(
        path=run.path,
        name=text,
        config=run.config,
        rows=run.rows,
        summary={**run.summary, text: {text: text}},
        checkpoints=run.checkpoints,
        model_files={text: 1},
        measured=run.measured,
        notes=(text,),
    )
    return run_page([run]) + run_page([run, run]) + demo_page(results(text), [run])


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, tuple[str, ...]]]:
    return shape(loaded_page(tmp_path_factory.mktemp("harmless") / "run", "harmless"))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_becomes_markup(payload: str, tmp_path: Path, harmless: list[tuple[str, tuple[str, ...]]]) -> None:
    page = loaded_page(tmp_path / "run", payload)
    assert shape(page) == harmless
    if "<" in payload or '"' in payload:
        assert payload not in page


def test_no_number_that_is_none_reaches_a_path(tmp_path: Path) -> None:
    rows = dpo_rows(40, eval_every=20)
    rows[5] |= {"loss": math.nan, "margin": math.inf}
    rows[-1] |= {"accuracy": math.nan}
    page = run_page([read_run(write_run(tmp_path / "run", rows))])
    assert "Did it work? No Training met figures that are not finite." in Dom(page).text
    for attribute in re.findall(r' (?:d|style)="([^"]*)"', page):
        assert "nan" not in attribute and "inf" not in attribute


def test_a_long_run_gives_a_small_page(tmp_path: Path) -> None:
    page = run_page([read_run(write_run(tmp_path / "run", dpo_rows(2000, eval_every=200)))])
    assert len(page) < 200_000
    assert "Each point is the mean of 34 steps" in page


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / part / "seed-0", dpo_rows(20)) for part in ("one", "two")]
    write_report(folders, tmp_path / "report.html")
    text = Dom((tmp_path / "report.html").read_text("utf-8")).text
    assert "one/seed-0, two/seed-0, all on prefs.jsonl." in text


def test_supervised_runs_have_a_page(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": step, "epoch": 0.1, "loss": 3 - step / 100, "response_tokens": 20.0, "examples": 8 * step, "lr": 1e-5}
        for step in range(1, 51)
    ]
    folder = write_run(tmp_path / "sft", rows)
    (folder / "summary.json").write_text(json.dumps({"recipe": "sft", "steps": 50}))
    text = Dom(run_page([read_run(folder)])).text
    assert "SFT run" in text and "fine-tuned on prefs.jsonl: 50 steps over 400 examples" in text
    assert "The training loss fell from 2.970 to 2.520 nats per token." in text  # over five steps at either end


def answer_of(rows: list[dict[str, Any]], **more: Any) -> tuple[str, str]:
    found = conclude_run(run_of(rows, **more))
    return found.answer, found.caveat


@pytest.mark.parametrize("width", [0.2, 0.3])
def test_a_verdict_needs_intervals_that_do_not_meet(width: float) -> None:
    """Held-out losses of 2.5 and 2, rewards of 2 and 2.5, an accuracy of .7 and one of .5."""

    def course(name: str, *values: float, **more: float) -> list[dict[str, Any]]:
        return [
            {"split": "eval", "step": step, name: value, f"{name}_low": value - width, f"{name}_high": value + width}
            | more
            for step, value in enumerate(values)
        ]

    apart = width < 0.25
    assert answer_of(course("loss", 2.5, 2.0), recipe="sft")[0] == ("yes" if apart else "unclear")
    assert answer_of(course("loss", 2.0, 2.5), recipe="sft")[0] == ("no" if apart else "unclear")
    assert answer_of(course("reward", 2.0, 2.5, kl=1.0), recipe="ppo")[0] == ("yes" if apart else "unclear")
    assert ("The intervals of both figures meet." in answer_of(course("loss", 2.5, 2.0), recipe="sft")[1]) != apart
    assert answer_of(course("accuracy", 0.75))[0] == ("yes" if apart else "unclear")


def test_a_figure_without_its_interval_gives_no_verdict() -> None:
    assert answer_of([{"split": "eval", "step": 5, "accuracy": 0.99}]) == ("unclear", "Its interval is not known.")
    bare = [{"split": "eval", "step": step, "loss": 3.0 - step} for step in range(2)]
    assert answer_of(bare, recipe="sft") == ("unclear", "How much of that is chance is not known.")
    noisy: list[dict[str, Any]] = [{"step": step, "loss": 3 - step / 1000 + step % 2} for step in range(1, 51)]
    assert answer_of(noisy, recipe="sft") == ("unclear", "The intervals of both figures meet.")


def test_a_page_is_written_whole_where_it_was_asked_for(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", dpo_rows(20))
    write_report([folder], tmp_path / "deep" / "er" / "report.html")
    assert (tmp_path / "deep" / "er" / "report.html").read_text("utf-8").rstrip().endswith("</html>")
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        write_report([folder], tmp_path / "file" / "report.html")
    with pytest.raises(DataError, match=r"file exists and is no page of Preftree; give another name"):
        write_report([folder], tmp_path / "file")

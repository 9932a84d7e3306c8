"""Answers, constants, intervals, contents, words and commands of a page; and the page over all runs."""

from __future__ import annotations

import re
import shlex
from html import unescape
from pathlib import Path

import pytest
import typer

from preftree.cli.main import app
from preftree.errors import DataError
from preftree.report.charts import Chart, Line, draw_chart
from preftree.report.curves import without_constants
from preftree.report.frontier import frontier_chart
from preftree.report.next_commands import next_commands
from preftree.report.page import run_page
from preftree.report.runs_page import find_runs, write_runs_page
from preftree.report.terms import TERMS, explained
from preftree.run_folder.measured_file import Point
from preftree.run_folder.reader import read_run
from support.runs import dpo_rows, write_run

ANSWERS = [{"prompt": "Why <b>?", "before": "no idea", "after": ""}]


def a_page(folder: Path, **options: object) -> str:
    return run_page([read_run(write_run(folder, dpo_rows(20, eval_every=5), **options))])


def test_answers_before_and_after_are_escaped_and_named(tmp_path: Path) -> None:
    page = a_page(tmp_path / "run", measured={"answers": ANSWERS, "answers_held_out": True})
    assert "Answers to held-out prompts" in page
    assert "Why &lt;b&gt;?" in page and "<b>?" not in page
    assert '<h3 class="minor">Before training</h3><p class="said">no idea</p>' in page
    assert '<h3 class="minor">After training</h3><p class="said">(nothing)</p>' in page
    assert "Answers to training prompts" in a_page(tmp_path / "other", measured={"answers": ANSWERS})


def test_contents_name_every_section_and_lead_to_it(tmp_path: Path) -> None:
    page = a_page(tmp_path / "run", measured={"answers": ANSWERS})
    nav = page[page.index("<nav") : page.index("</nav>")]
    links = re.findall(r'href="#([^"]+)">([^<]+)<', nav)
    assert [title for _, title in links] == ["Before and after", "Learning curves", "Checks", "Go on", "What was run"]
    assert all(f'<h2 id="{place}"' in page for place, _ in links)


def test_a_figure_that_never_changes_is_a_word_and_no_chart() -> None:
    flat, one = Chart("Learning rate", [Line("lr", [(1.0, 1e-5), (2.0, 1e-5)], "main")]), [(1.0, 2.0)]
    moving, single = (
        Chart("Loss", [Line("loss", [(1.0, 2.0), (2.0, 1.0)], "main")]),
        Chart("Ended", [Line("e", one, "main")]),
    )
    charts, constants = without_constants([flat, moving, single])
    assert charts == [moving, single]
    assert constants == ["learning rate 1e−5"]


def test_intervals_of_a_frontier_are_crosses_inside_its_axes() -> None:
    ends = {"kl_low": -0.1, "kl_high": 1.5, "reward_low": 0.0, "reward_high": 2.0}
    points = [Point(kl=0.5, reward=1.0, step=1, **ends), Point(kl=1.0, reward=1.2, step=2, **ends)]
    chart = frontier_chart({"dpo": points})
    assert "95 % intervals" in chart.caption
    assert chart.lines[0].bars[0] == (0.0, 1.5, 0.0, 2.0), "a KL below zero is drawn at zero"
    drawing = draw_chart(chart)
    assert drawing is not None
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", drawing.strokes[0].bars)]
    assert numbers and all(0 <= number <= 1000 for number in numbers)
    without = frontier_chart({"dpo": [*points, Point(kl=2, reward=1, step=3)]})
    assert not without.lines[0].bars and "intervals" not in without.caption


def test_words_are_those_of_the_glossary() -> None:
    glossary = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text("utf-8")
    entries = {}
    for line in glossary.splitlines():
        if line.startswith("| "):
            words, _, meaning = line.strip("| ").partition(" | ")
            entries |= {word.strip().lower(): meaning for word in words.split(",")}
    for word, meaning in TERMS.items():
        assert entries[word] == meaning, word


def test_a_heading_is_explained_and_other_text_is_not() -> None:
    assert TERMS["kl"] in unescape(str(explained("KL to the reference")))
    assert explained("Throughput") == "Throughput"
    assert "<img" not in explained("<img>") or explained("<img>") == "<img>", "escaped where it is rendered"


@pytest.mark.parametrize("options", [{}, {"lora": {"r": 4}}])
def test_commands_are_verbs_with_options_that_exist(tmp_path: Path, options: dict[str, object]) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    path = write_run(folder / "run", dpo_rows(20), eval_data=None, **options)
    (path / "model").mkdir(exist_ok=True)
    (path / "model" / "config.json").write_text("{}")
    commands = next_commands(read_run(path))
    assert commands[0][1].endswith("out=ANOTHER"), "nothing was held out"
    assert any("--merged" in words for _, words in commands) == bool(options)
    root = typer.main.get_command(app)
    for _, words in commands[1:]:
        program, *rest = shlex.split(words)
        assert program == "preftree" and str(path) in rest
        command = root
        while hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known


def test_the_page_over_all_runs(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "dpo" / "a", dpo_rows(20, eval_every=5))
    (write_run(runs / "b&b", dpo_rows(10)) / "report.html").write_text("x")
    (runs / "broken").mkdir()
    (runs / "broken" / "metrics.jsonl").write_text("{x\n")
    assert [path.name for path in find_runs(runs)] == ["b&b", "broken", "a"]
    out = tmp_path / "page.html"
    assert write_runs_page(runs, out) == 3
    page = out.read_text("utf-8")
    assert '<a href="runs/b%26b/report.html">b&amp;b</a>' in page
    assert "<th>dpo/a</th>" in page
    assert "broken: " in page and "must be a JSON object" in page
    assert page.index(">DPO<") < page.index(">Not readable<")
    with pytest.raises(DataError, match="holds no metrics"):
        find_runs(runs / "dpo" / "a" / "model")
    with pytest.raises(DataError, match="does not exist"):
        find_runs(tmp_path / "nowhere")

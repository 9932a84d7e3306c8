"""Pages that are written from the code say what the code says now; formulas become the mathematics that they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preftree.cli.commands_page import commands_page
from preftree.cli.losses import END, START
from preftree.cli.main import app
from preftree.losses.registry import LOSSES
from preftree.losses.words.describe import describe
from preftree.losses.words.latex import to_latex
from preftree.losses.words.page import markdown_page

DOCS = Path(__file__).parents[2] / "docs"


def test_commands_are_those_of_the_command_line() -> None:
    page = commands_page(app)
    assert (DOCS / "commands.md").read_text("utf-8") == page, "make docs-commands"
    assert "## preftree eval winrate" in page and "## preftree commands" not in page


def test_losses_are_those_of_the_docstrings() -> None:
    text = (DOCS / "losses.md").read_text("utf-8").partition(START)[2].partition(END)[0].strip()
    assert text == markdown_page(LOSSES).strip(), "make docs-losses"


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_in_one_table_and_has_a_section(name: str) -> None:
    page = markdown_page(LOSSES)
    assert page.count(f"| [`{name}`](#{name}) |") == 1
    assert page.count(f"### {name} {{#{name}}}") == 1


@pytest.mark.parametrize(
    ("line", "latex"),
    [
        ("loss = -log sigmoid(beta * delta)", r"\mathcal{L} = - \log\,\sigma\left(\beta \, \Delta\right)"),
        ("loss = (delta - 1 / (2 beta))^2", r"\mathcal{L} = \left(\Delta - \frac{1}{2 \beta}\right)^{2}"),
        ("loss = -log sigmoid(-r_w) / 2", r"\mathcal{L} = - \frac{\log\,\sigma\left(- r_{w}\right)}{2}"),
        ("e^-d + 2 nu e^(-d/2)", r"e^{-d} + 2 \nu e^{- \frac{d}{2}}"),
        ("sum over j >= k of e^(s_j)", r"\sum_{j \ge  k} e^{s_{j}}"),
        ("z = (d - mean d) / std d", r"z = \frac{d - \operatorname{mean}\,d}{\operatorname{std}\,d}"),
        ("nll_weight * chosen_logps / chosen_tokens", r"\mathrm{nll\ weight}\, \, \frac{\ell_w}{n_w}"),
        ("loss = x for a win", r"\mathcal{L} = x \text{ for } \text{a} \text{ win }"),
    ],
)
def test_formulas_by_hand(line: str, latex: str) -> None:
    assert to_latex(line, ["nll_weight"]) == latex


@pytest.mark.parametrize("name", LOSSES)
def test_every_formula_is_balanced_latex_of_all_its_names(name: str) -> None:
    pytest.importorskip("latex2mathml")
    from latex2mathml.converter import convert

    words = describe(LOSSES[name])
    for line in words.formula:
        latex = to_latex(line, LOSSES[name].options)
        assert latex.count(r"\left(") == latex.count(r"\right)")
        assert latex.count("{") == latex.count("}")
        assert "<math" in convert(latex)
        for option in LOSSES[name].options:
            if re.search(rf"\b{option}\b", line):
                assert option.replace("_", r"\ ") in latex

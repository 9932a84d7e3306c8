"""Numbers that are worked by hand on docs/dpo.md, and the defaults of beta on docs/choose_beta.md."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from preftree.losses import LOSSES

DOCS = Path(__file__).parents[2] / "docs"
DPO = (DOCS / "dpo.md").read_text("utf-8")


def test_python_prints_what_stands_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DPO, re.DOTALL)
    exec(compile(code, "dpo.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*\) +# (.*)", code)


def test_the_pair_by_hand() -> None:
    delta = (-41 - -42) - (-43 - -40)
    margin = 0.1 * delta
    right = 1 / (1 + math.exp(-margin))
    numbers = [delta, margin, right, -math.log(right), 1 - right, 1 / (1 + math.exp(-2))]
    assert [round(number, 3) for number in numbers] == [4, 0.4, 0.599, 0.513, 0.401, 0.881]
    for text in (f"= {delta} nats", "it is .4", "= -log .599 = .513", ".1 x .401", "ln 2 = .693", "sigmoid is .88"):
        assert text in DPO
    assert round(math.log1p(math.exp(-4)), 3) == 0.018 and "from .513 to .018" in DPO
    assert round(math.exp(-2), 3) == 0.135 and "e^-2 = .135" in DPO


def test_the_table_of_betas() -> None:
    for beta, words in ((0.05, "40 nats | e^40"), (0.1, "20 nats | e^20"), (0.5, "4 nats | 55 times")):
        assert f"| {beta:g} | {words} |".replace("| 0", "| ") in DPO
        assert 2 / beta == pytest.approx(float(words.split()[0]))
    assert round(math.exp(4)) == 55 and "| 1 | 2 nats | 7.4 times |" in DPO and round(math.exp(2), 1) == 7.4


def test_the_defaults_of_beta_are_those_of_the_losses() -> None:
    page = (
        (DOCS / "choose_beta.md").read_text("utf-8").partition("<!-- defaults of beta -->")[2].partition("<!-- end")[0]
    )
    rows = re.findall(r"^\| ([\d.]+) \| (.*) \|$", page, re.MULTILINE)
    written = {name: float(beta) for beta, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert written == {name: spec.options["beta"].default for name, spec in LOSSES.items() if "beta" in spec.options}

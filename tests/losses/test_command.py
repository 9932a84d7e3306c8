import math
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from preftree.cli.losses import losses
from preftree.errors import ConfigError, DataError
from preftree.losses import LOSSES, bind
from preftree.losses.curve import loss_curve
from preftree.losses.words.describe import needs_of
from preftree.report.braille import draw_curve

app = typer.Typer()
app.command()(losses)


def run(*arguments: str):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"}, catch_exceptions=False)


def test_every_loss_is_listed_with_all_that_its_signature_and_docstring_say():
    result = run()
    assert result.exit_code == 0
    entries = {entry.split()[0]: " ".join(entry.split()) for entry in result.stdout.split("\n\n")}
    assert list(entries) == list(LOSSES)
    for name, spec in LOSSES.items():
        assert entries[name].startswith(f"{name} {spec.summary} ")
        assert entries[name].endswith(spec.source)
        assert (f"needs {', '.join(needs_of(spec))}" in entries[name]) == bool(needs_of(spec))
        assert ("reference" in needs_of(spec)) == spec.needs_reference
        for option, value in spec.options.items():
            assert f"{option} {value}" in entries[name]


@pytest.mark.parametrize(("terminal", "width"), [(80, 80), (200, 100)])
def test_lines_fit(terminal, width):
    result = CliRunner().invoke(app, [], env={"COLUMNS": str(terminal), "TERM": "dumb"})
    assert max(map(len, result.stdout.splitlines())) <= width


@pytest.mark.parametrize("name", LOSSES)
def test_one_loss_shows_its_docstring_and_its_curve(name):
    result = run(name)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{name}\n")
    for part in ("loss = ", "Args:", "Source: "):
        assert part in result.stdout
    assert ("d loss / d delta against delta" in result.stdout) == (LOSSES[name].kind == "pair")
    assert "nan" not in result.stdout.partition("against delta")[2]


def test_a_name_of_trl_shows_our_loss():
    assert run("sigmoid").stdout == run("dpo").stdout


def test_curve_of_dpo():
    """softplus(-beta delta), and -beta sigmoid(-beta delta)."""
    deltas = torch.tensor([-30.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    values, slopes = loss_curve(bind("dpo", {"beta": 0.5}), deltas)
    assert values.tolist() == pytest.approx([math.log1p(math.exp(-0.5 * d)) for d in deltas.tolist()])
    assert slopes.tolist() == pytest.approx([-0.5 / (1 + math.exp(0.5 * d)) for d in deltas.tolist()])


@pytest.mark.parametrize("name", [name for name, spec in LOSSES.items() if spec.kind == "pair"])
def test_slopes_are_those_of_the_curve(name):
    deltas = torch.tensor([-1.0, 0.3, 1.1], dtype=torch.float64)
    spread = torch.cat([deltas + 1e-6, deltas - 1e-6, torch.tensor([3.0], dtype=torch.float64)])  # one common start
    values, _ = loss_curve(bind(name, {}), spread)
    _, slopes = loss_curve(bind(name, {}), torch.cat([deltas, spread[-1:]]))
    if name not in ("kto_pair", "beta_dpo"):  # a step of one pair: its constants would move too
        torch.testing.assert_close((values[:3] - values[3:6]) / 2e-6, slopes[:3], rtol=1e-4, atol=1e-7)


def test_a_curve_is_of_pairs():
    with pytest.raises(ValueError, match="got 'kto'"):
        loss_curve(bind("kto", {}), torch.zeros(1, dtype=torch.float64))


def test_plot_by_hand():
    """A falling line of eight points in two lines of four columns; 4 x 2 dots a column."""
    title, first, second, edge = draw_curve(
        [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0], title="t", ends=(-1.0, 1.0), height=2
    ).splitlines()
    assert title.strip() == "t"
    assert first == "        7 ⠑⢄⠀⠀"
    assert second == "        0 ⠀⠀⠑⢄"
    assert edge == " " * 10 + "-101"
    assert "⠉⠉" in draw_curve([2.0] * 4, title="t", ends=(0.0, 1.0), height=2)


def test_unknown_loss():
    with pytest.raises(ConfigError, match="got 'simop'; did you mean 'simpo'"):
        run("simop")
    with pytest.raises(ConfigError, match=r"reference\.sync_every"):
        run("tr_dpo")


def test_the_page_is_up_to_date(tmp_path):
    """`make docs-losses` would change nothing."""
    page = Path(__file__).parents[2] / "docs" / "losses.md"
    copy = tmp_path / "losses.md"
    copy.write_text(page.read_text("utf-8"), "utf-8")
    assert run("--into", str(copy)).exit_code == 0
    assert copy.read_text("utf-8") == page.read_text("utf-8")


def test_a_page_without_a_place_for_the_table(tmp_path):
    (tmp_path / "page.md").write_text("nothing\n")
    with pytest.raises(DataError, match=r"page\.md: wanted the lines"):
        run("--into", str(tmp_path / "page.md"))

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from preftree.cli.losses import losses
from preftree.errors import ConfigError
from preftree.losses import LOSSES
from preftree.losses.table import options_of

app = typer.Typer()
app.command()(losses)


def run(*arguments: str):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"}, catch_exceptions=False)


def test_table_lists_every_loss_with_options_and_source():
    result = run()
    assert result.exit_code == 0
    for name, spec in LOSSES.items():
        assert re.search(rf"\b{name}\b", result.stdout)
        assert spec.source in result.stdout
        for option, value in options_of(spec).items():
            assert f"{option} {value}" in result.stdout


def test_nothing_is_cut_off_on_a_narrow_terminal():
    result = CliRunner().invoke(app, [], env={"COLUMNS": "80", "TERM": "dumb"})
    assert "…" not in result.stdout
    assert "label_smoothing" in result.stdout


@pytest.mark.parametrize("name", LOSSES)
def test_one_loss_shows_its_docstring(name):
    result = run(name)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{name}\n")
    for part in ("loss = ", "Args:", "Source: "):
        assert part in result.stdout


def test_unknown_loss():
    with pytest.raises(ConfigError, match="got 'cdop'; did you mean 'cdpo'"):
        run("cdop")


def test_the_page_names_every_loss():
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text("utf-8")
    for name in LOSSES:
        assert f"`{name}`" in page

"""The completion scripts, run by the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.config.recipes import RECIPES


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh"):
        (folder / shell).write_text(CliRunner().invoke(app, ["completion", shell]).output)
    return folder


def complete(scripts: Path, line: str, breaks: str = " \t\n\"'><=;|&(:") -> list[str]:
    """The replies of bash to a tab at the end of a line."""
    code = 'source "$1"; COMP_WORDBREAKS=$3 COMP_LINE=$2 COMP_POINT=${#2}; _preftree\nprintf "%s\\n" "${COMPREPLY[@]}"'
    words = ["bash", "--norc", "-c", code, "bash", str(scripts / "bash"), line, breaks]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=scripts)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("preftree s", ["sft", "sweep"]),
        ("preftree data ", ["inspect", "convert", "cut", "rank"]),
        ("preftree eval w", ["winrate"]),
        ("preftree ref ", ["build"]),
        ("preftree sweep ", [row.name for row in RECIPES.values() if row.trains == "policy"]),
        ("preftree options r", ["reward", "rloo"]),
        ("preftree completion ", ["bash", "zsh"]),
        ("preftree configs ", ["list", "show", "copy", "from"]),
        ("preftree losses simp", ["simper", "simpo"]),
        ("preftree generate --best", ["--best-of"]),
        ("preftree dpo optim", ["optimizer="]),
        ("preftree dpo lr=1 run.yaml optim", ["optimizer="]),
        ("preftree dpo loss.n", ["loss.name="]),
        ("preftree dpo --lora.r", ["--lora.r", "--lora.rslora"]),
        ("preftree sweep ppo crit", ["critic=", "critic_lr=", "critic_start="]),
        ("preftree ref build refer", ["reference=", "reference.from=", "reference.sync_every=", "reference.mixup="]),
        ("preftree sft refer", []),
        ("preftree dpo optimizer=", ["adamw", "rmsprop", "adamw_8bit"]),
        ("preftree dpo optimizer=r", ["rmsprop"]),
        ("preftree dpo --optimizer=r", ["rmsprop"]),
        ("preftree dpo --optimizer r", ["rmsprop"]),
        ("preftree dpo compile=", ["true", "false"]),
        ("preftree dpo loss=sim", ["simper", "simpo"]),
        ("preftree dpo loss.name=sim", ["simper", "simpo"]),
        ("preftree reward loss=brad", ["bradley_terry", "bradley_terry_margin"]),
        ("preftree sweep dpo loss=sim", ["simper", "simpo"]),
        ("preftree dpo data=ba", ["bash"]),
        ("preftree dpo data.path=z", ["zsh"]),
        ("preftree dpo lr=", []),
    ],
)
def test_bash(scripts: Path, line: str, wanted: list[str]) -> None:
    assert complete(scripts, line) == wanted


def test_bash_that_does_not_break_words_at_equals_signs(scripts: Path) -> None:
    assert complete(scripts, "preftree dpo optimizer=r", " \t\n") == ["optimizer=rmsprop"]
    assert complete(scripts, "preftree dpo --optimizer=r", " \t\n") == ["--optimizer=rmsprop"]
    assert complete(scripts, "preftree dpo --optimizer r", " \t\n") == ["rmsprop"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_reads_the_script(scripts: Path) -> None:
    done = subprocess.run(["zsh", "-n", str(scripts / "zsh")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_refused() -> None:
    assert "completion is for bash and zsh, got 'fish'" in str(
        CliRunner().invoke(app, ["completion", "fish"]).exception
    )

"""The help of a verb names all its options, and the page in docs is what the source says."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.cli.options import page
from preftree.config.help import groups_of
from preftree.config.recipes import RECIPES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("words", [("{}", "--help"), ("options", "{}")])
def test_the_help_of_a_verb_names_every_option(name: str, words: tuple[str, str]) -> None:
    result = CliRunner().invoke(app, [word.format(name) for word in words])
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    for group in groups_of(RECIPES[name]):
        assert group.title in text
        for option in group.flat():
            assert f" {option.name} {option.meaning} ({option.type}" in text
    assert "\x1b" not in result.output
    assert not any(line.endswith(" ") for line in result.output.splitlines())


def test_losses_are_named_in_the_help() -> None:
    text = " ".join(CliRunner().invoke(app, ["dpo", "--help"]).output.split())
    assert "`preftree losses` lists them" in text and "Names: dpo, cdpo, dpo_soft, robust, dpo_shift, exo," in text


def test_a_file_or_a_schema_is_written() -> None:
    text = CliRunner().invoke(app, ["options", "sft", "--yaml"]).output
    assert yaml.safe_load(text)["recipe"] == "sft"
    assert CliRunner().invoke(app, ["options", "sft", "--json-schema"]).output.startswith("{")
    for words, sentence in (
        (["options"], "give one of the recipes sft, dpo"),
        (["options", "dop"], "got 'dop'"),
        (["options", "dpo", "--yaml", "--json-schema"], "give one of them"),
    ):
        assert sentence in str(CliRunner().invoke(app, words).exception)


def test_the_page_is_current() -> None:
    assert (DOCS / "options.md").read_text("utf-8") == page(), "make docs-options"


@pytest.mark.parametrize("command", [["inspect"], ["convert", "out.jsonl"]])
def test_data_is_read_without_torch(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "A?", "chosen": "yes", "rejected": "no"}\n', "utf-8")
    words = ["data", command[0], "pairs.jsonl", *command[1:]]
    code = (
        "import sys\nfrom preftree.cli.main import app\n"
        f"app({words!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'datasets', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["dpo", "--help"], ["options", "dpo", "--yaml"], ["completion", "bash"]])
def test_no_torch_is_imported_for_help(words: list[str]) -> None:
    code = (
        "import sys\nfrom preftree.cli.main import app\n"
        f"app({words!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 10  # about .3 s on a quiet core


def test_every_whole_number_of_every_verb_has_64_bits() -> None:
    """Beyond them torch, numpy and files raise errors of their own, each in another place."""

    def options_of(command: Any, verb: str) -> Iterator[tuple[str, Any]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from options_of(inner, f"{verb} {name}".strip())
        yield from ((verb, option) for option in command.params)

    whole = [
        (verb, option)
        for verb, option in options_of(typer.main.get_command(app), "")
        if (descriptor := getattr(option, "type_descriptor", None)) is not None and "int" in str(descriptor.annotation)
    ]
    assert len(whole) > 25
    for verb, option in whole:
        assert option.callback is not None, (verb, option.opts)
    for words in (["generate", "m", "p", "o", "--seed"], ["data", "cut", "f", "o", "--model", "m", "--num-rows"]):
        done = CliRunner().invoke(app, [*words, str(2**63)])
        assert done.exit_code == 2
        assert "must be a number below 2^63" in " ".join(done.output.split())

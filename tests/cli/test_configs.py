"""`preftree configs`: what comes with the package is listed, printed and copied."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import ConfigError, WriteError

ROOT = Path(__file__).parents[2]


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["configs", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_the_wheel_has_the_folder_where_the_command_looks() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["force-include"] == {"configs": "preftree/configs"}


def test_all_are_listed_with_their_verbs() -> None:
    files = sorted((ROOT / "configs").glob("*/*.yaml"))
    rows = json.loads(run("list", "--json"))
    assert [row["path"] for row in rows] == [str(path) for path in files]
    for row in rows:
        assert f"{row['name']} " in run("list") and f"preftree {row['recipe']}" in run("list")
    assert all(len(line) <= 80 for line in run("list").splitlines())


def test_one_is_printed_as_it_is() -> None:
    file = (ROOT / "configs/hh/dpo.yaml").read_text()
    assert run("show", "hh/dpo") == run("show", "hh/dpo.yaml") == file
    assert run("show", "tldr") == (ROOT / "configs/tldr/README.md").read_text()
    with pytest.raises(ConfigError, match=r"no configuration of the package is named 'hh/dp'; there are hh, hh/dpo, "):
        CliRunner().invoke(app, ["configs", "show", "hh/dp"], catch_exceptions=False)


def test_copies_are_whole_and_replace_nothing(tmp_path: Path) -> None:
    file = (ROOT / "configs/hh/dpo.yaml").read_text()
    (tmp_path / "mine").mkdir()
    for dest in ("mine", "new", "named.yaml"):
        run("copy", "hh/dpo", str(tmp_path / dest))
    assert [path.read_text() for path in tmp_path.rglob("*.yaml")] == [file] * 3
    run("copy", "hh", str(tmp_path / "all"))
    copied = {path.name: path.read_text() for path in (tmp_path / "all").iterdir()}
    assert copied == {path.name: path.read_text() for path in (ROOT / "configs/hh").iterdir()}
    (tmp_path / "mine/dpo.yaml").write_text("mine")
    (tmp_path / "mine/file").write_text("mine")
    for words, kind, reason in (
        (("hh/dpo", "mine"), ConfigError, "mine/dpo.yaml exists already and is left as it is"),
        (("hh", "mine/file"), WriteError, "mine/file/README.md cannot be written"),
    ):
        with pytest.raises(kind, match=reason):
            CliRunner().invoke(app, ["configs", "copy", words[0], str(tmp_path / words[1])], catch_exceptions=False)
    assert (tmp_path / "mine/dpo.yaml").read_text() == "mine"

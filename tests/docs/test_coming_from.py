"""The pages on other tools, and the notebook: every block of code runs, and every command is a true one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from support.small_runs import make_model

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "other_tools" / "files"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFTREE_CACHE", str(tmp_path / "cache"))
    make_model(tmp_path / "model")
    return tmp_path


def test_the_script_of_trl_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "from_trl.md").read_text("utf-8"), re.DOTALL)
    exec(compile(block, "from_trl.md", "exec"), {})
    assert Path("gpt-dpo-model/model.safetensors").is_file()
    margin, loss = map(float, capsys.readouterr().out.split()[-2:])
    assert margin == 0 and 0 < loss < 0.6932


@pytest.mark.parametrize("page", ["from_trl", "from_llama_factory", "from_axolotl"])
def test_the_commands_of_a_page(page: str, place: Path) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text("utf-8"), re.DOTALL)
    convert, run = block.splitlines()
    theirs, ours = convert.removeprefix("preftree configs from ").split(" > ")
    shutil.copytree(FILES, place, dirs_exist_ok=True)
    file = place / theirs
    file.write_text(file.read_text().replace("MODEL", str(place / "model")))
    result = CliRunner().invoke(app, ["configs", "from", theirs])
    assert result.exit_code == 0, result.output
    Path(ours).write_text(result.output)
    assert run == f"preftree dpo {ours}"  # tests/other_tools starts what these files become


def test_the_notebook_runs_and_keeps_no_output() -> None:
    book: dict[str, Any] = json.loads((ROOT / "docs" / "notebook.ipynb").read_text("utf-8"))
    names: dict[str, Any] = {}
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    run = names["run"]
    assert run.report.is_file() and run.model.is_dir() and run.figures["pairs"] == 8
    assert "<table>" in run._repr_html_()

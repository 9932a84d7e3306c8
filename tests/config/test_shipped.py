"""The configurations that come with the package: each is whole, and every command of their pages runs as it stands."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from preftree.cli.configs import shipped_configs
from preftree.cli.main import app
from preftree.config.load import load_config
from preftree.config.recipes import RECIPES
from preftree.evaluate.sweep import plan_sweep
from support.small_runs import rows_of
from support.standins import make_standins

ROOT = Path(__file__).parents[2]
TASKS = ("sentiment", "tldr", "hh")
FILES = sorted((ROOT / "configs").rglob("*.yaml"))

SMALL = ["max_steps=2", "batch_size=4", "micro_batch_tokens=1024"]
SMALL_PPO = ["max_steps=1", "batch_size=4", "minibatch_size=2", "max_new_tokens=4"]
SMALL_OPTIONS = {"--best-of": "3", "--max-new-tokens": "4", "--num-rows": "9"}


def config_of(path: Path) -> Any:
    (row,) = (row for row in shipped_configs() if row.path == path)
    return load_config(RECIPES[row.recipe].config, [str(path)])


def commands(task: str) -> list[list[str]]:
    """The commands of a task's page, as a shell takes them apart: indented lines, and those within the text."""
    page = (ROOT / "configs" / task / "README.md").read_text()
    lines = re.findall(r"^    (\S.*)$|`(preftree [^`]*configs/[^`]*\.yaml)`", page, re.MULTILINE)
    found = []
    for indented, within in lines:
        done = subprocess.run(["bash", "-c", f"printf '%s\\0' {indented or within}"], capture_output=True, check=True)
        found.append(done.stdout.decode().split("\0")[:-1])
    return found


def test_the_configurations_are_those_of_the_three_tasks() -> None:
    assert {path.parent.name for path in FILES} == set(TASKS)
    assert len(FILES) == 6 + 5 + 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_configuration_is_whole_and_its_page_runs_it(path: Path) -> None:
    config = config_of(path)
    assert config.out == f"runs/{path.parent.name}/{path.stem}"
    runs = [command for command in commands(path.parent.name) if f"configs/{path.parent.name}/{path.name}" in command]
    assert runs
    assert {command[2] if command[1] == "sweep" else command[1] for command in runs} == {config.recipe}


@pytest.mark.parametrize("task", TASKS)
def test_every_command_is_one(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    root: Any = typer.main.get_command(app)
    for program, *words in commands(task):
        if program == "mkdir":
            continue
        assert program == "preftree"
        verb, rest = root, words
        while hasattr(verb, "commands"):
            name, *rest = rest
            verb = verb.commands[name]
        context = verb.make_context(words[0], list(rest))
        if words[0] == "sweep":
            _, variants = plan_sweep(RECIPES[words[1]].config, context.params["words"])
            assert len(variants) in (2, 4)
        elif words[0] in RECIPES:
            load_config(RECIPES[words[0]].config, rest)


def test_the_figures_are_the_papers() -> None:
    """Rafailov et al. 2023, Appendix B and C.1: batches of 64, RMSprop at 1e-6 after 150 steps, beta .1 (TL;DR .5)."""
    betas = {task: config_of(ROOT / "configs" / task / "dpo.yaml") for task in TASKS}
    assert {task: config.beta for task, config in betas.items()} == {"sentiment": 0.1, "tldr": 0.5, "hh": 0.1}
    for config in (*betas.values(), config_of(ROOT / "configs/sentiment/unlikelihood.yaml")):
        assert (config.batch_size, config.optimizer, config.lr, config.warmup_steps) == (64, "rmsprop", 1e-6, 150)
        assert (config.schedule, config.max_grad_norm, config.reference) == ("constant", 10.0, "start")
    reward = config_of(ROOT / "configs/sentiment/reward.yaml")
    assert (reward.model, reward.epochs) == ("gpt2-large", 3)
    ppo = config_of(ROOT / "configs/sentiment/ppo.yaml")
    assert (ppo.batch_size, ppo.kl_target) == (1024, 6)
    starts = {task: config.model for task, config in betas.items()}
    assert starts["tldr"] == "CarperAI/openai_summarize_tldr_sft"
    assert config_of(ROOT / "configs/sentiment/sft.yaml").model == "gpt2-large"
    assert config_of(ROOT / "configs/hh/preferred-ft.yaml").model == "EleutherAI/pythia-2.8b"
    sweeps = [word for command in commands("sentiment") if command[1] == "sweep" for word in command if "," in word]
    assert sweeps == ["beta=.05,.1,1,5", "loss.alpha=.05,.1,.5,1", "seed=0,1", *["kl_target=3,6,9,12"] * 3]


def small(words: list[str]) -> list[str]:
    """The same command, less of it."""
    words = [SMALL_OPTIONS.get(before, word) for before, word in zip(["", *words], words)]
    if words[0] == "sweep":
        return [*words, *(SMALL_PPO if words[1] == "ppo" else SMALL), "--prompts", "3", "--samples", "1"]
    if words[0] in RECIPES:
        return [*words, *(SMALL_PPO if words[0] == "ppo" else SMALL)]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_command_runs(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_standins(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFTREE_CACHE", str(tmp_path / "cache"))
    for program, *words in commands(task):
        if program == "mkdir":
            subprocess.run([program, *words], check=True)
            continue
        done = CliRunner().invoke(app, small(words), catch_exceptions=False)
        assert done.exit_code == 0, (words, done.output)
    for run in sorted((tmp_path / "runs" / task).glob("**/metrics.jsonl")):
        assert [row for row in rows_of(run.parent) if "loss" in row or "reward" in row], run

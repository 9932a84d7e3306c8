import errno
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.config.command_line import split_words
from preftree.config.recipes import RECIPES
from preftree.errors import ConfigError, WriteError
from preftree.evaluate.sweep import plan_sweep
from preftree.storage import atomic
from support.small_runs import make_model, make_pairs


def words(folder: Path, *more: str) -> list[str]:
    options = {
        "model": folder / "model",
        "data": folder / "pairs.jsonl",
        "out": folder / "sweep",
        "cache": folder / "cache",
        "eval_data": 0.4,
        "batch_size": 4,
        "max_steps": 3,
        "max_response_length": 12,
        "truncation": "trim_response",
    }
    return ["sweep", "dpo", *(f"{key}={value}" for key, value in options.items()), *more]


def test_a_sweep_compares_its_runs_and_survives_one_that_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 12)
    (tmp_path / "rule.py").write_text("def long(prompt, response):\n    return float(len(response))\n")
    command = words(tmp_path, "lr=1e-3,1e30", "--reward", f"{tmp_path / 'rule.py'}:long", "--prompts", "3")
    with caplog.at_level("INFO", "preftree"):
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert told["recommended"]["setting"] is None  # three steps, three prompts and one seed tell nothing
    assert [point["step"] for point in told["runs"]["lr0.001"]["points"]] == [0, 1, 2, 3]
    assert "lr1e+30: " in caplog.text
    assert told["runs"]["lr1e+30"]["error"] in caplog.text
    assert "recommended: nothing. " in done.output
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "lr1e+30 stopped" in page
    assert "Which setting should I use?" in page
    # The first run scores the reference; the second finds all of it.
    builds = [record.args for record in caplog.records if record.msg.startswith("reference: %d responses scored in")]
    assert [args[0] > 0 for args in builds if isinstance(args, tuple)] == [True, False]

    def full(path: Path, content: str) -> None:
        if path.parent.name == "sweep":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    write = atomic.write_atomic
    monkeypatch.setattr(atomic, "write_atomic", full)
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, WriteError)
    assert "sweep.json cannot be written (No space left on device); fix that" in str(done.exception)


def test_a_reward_that_is_not_there_is_told_before_the_first_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, words(tmp_path, "beta=.1,.2", "--reward", "world:none"))
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_of_ppo(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("".join(f"{number} the plot\n" for number in range(4)))
    (tmp_path / "rule.py").write_text("def long(prompt, response):\n    return float(len(response))\n")
    reward = f"{tmp_path / 'rule.py'}:long"
    options = {"model": "model", "data": "prompts.txt", "out": "sweep", "cache": "cache"}
    words = ["sweep", "ppo", *(f"{key}={tmp_path / value}" for key, value in options.items()), f"reward={reward}"]
    more = ["kl_target=1,4", "max_steps=2", "batch_size=4", "max_new_tokens=4", "ppo_epochs=1", "--reward", reward]
    done = CliRunner().invoke(app, [*words, *more, "--prompts", "2", "--samples", "1"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [[point["step"] for point in run["points"]] for run in told["runs"].values()] == [[0, 1, 2], [0, 1, 2]]
    configs = [(tmp_path / "sweep" / name / "config.yaml").read_text() for name in ("kl_target1", "kl_target4")]
    assert "kl_target: 1.0" in configs[0] and "kl_target: 4.0" in configs[1]


def test_options_that_vary_may_begin_with_dashes() -> None:
    """The runs are planned before anything is trained; both spellings plan the same."""
    plans = []
    for words in (
        ["model=m", "data=d", "out=o", "beta=.1,.5", "compile=true"],
        ["--model", "m", "--data=d", "out=o", "--beta", ".1,.5", "--compile"],
    ):
        files, options = split_words(RECIPES["dpo"].config, words)
        plans.append(plan_sweep(RECIPES["dpo"].config, [*files, *(f"{name}={text}" for name, text in options)]))
    assert plans[0] == plans[1] and [variant.name for variant in plans[0][1]] == ["beta0.1", "beta0.5"]

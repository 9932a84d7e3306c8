"""What the command line prints and how it exits: 0 done, 2 the user can mend it, 130 Ctrl-C, 143 SIGTERM."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from transformers.utils import logging as transformers_logging

from preftree import __version__
from preftree.cli.main import main
from preftree.storage.checkpoint import list_checkpoints
from preftree.train import open_run as run
from preftree.train.step import supervised
from support.small_runs import load_trained, make_model, make_pairs, rows_of


class Result(NamedTuple):
    code: int | str | None
    out: str
    err: str


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """The command line owns its process: give back what it sets."""
    handler, log = signal.getsignal(signal.SIGTERM), logging.getLogger("preftree")
    before = log.handlers, log.level, log.propagate
    yield
    signal.signal(signal.SIGTERM, handler)
    log.handlers, log.level, log.propagate = before
    transformers_logging.enable_progress_bar()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl")
    return folder


def words_of(place: Path, out: str) -> list[str]:
    return [
        f"model={place / 'model'}",
        f"data={place / 'pairs.jsonl'}",
        f"out={place / out}",
        f"cache={place / 'cache'}",
        "batch_size=8",
    ]


def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> Result:
    monkeypatch.setattr(sys, "argv", ["preftree", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main()
    return Result(caught.value.code, *capsys.readouterr())


def test_version_and_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(monkeypatch, capsys, "--version") == (0, f"preftree {__version__}\n", "")
    code, out, _ = run_cli(monkeypatch, capsys, "--help")
    assert code == 0
    for verb in ("demo", "data", "sft", "dpo", "ref", "losses"):
        assert verb in out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, preftree.cli.main\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'plotly'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_from_a_file_of_pairs_to_a_model(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words_of(place, "run"), "eval_data=0.2", "lr=1e-4"]
    code, out, err = run_cli(monkeypatch, capsys, "dpo", *words)
    assert (code, out) == (0, ""), err
    assert "pairs.jsonl: explicit, plain text, 20 rows, 20 accepted" in err
    assert "policy equals reference" in err
    assert "step 2/2  loss" in err
    assert load_trained(place / "run").config.vocab_size > 0
    rows = rows_of(place / "run", clock=True)
    assert [row.get("split", "train") for row in rows] == ["eval", "train", "eval", "train", "eval"]
    rows = [row for row in rows if "split" not in row or row["step"] == 2]
    for name in ("step", "epoch", "loss", "accuracy", "margin", "chosen_logps", "rejected_logps", "chosen_logratio"):
        assert name in rows[0]
    for name in ("rejected_logratio", "grad_weight", "grad_norm", "lr", "pairs", "tokens", "pairs_per_second"):
        assert name in rows[0]
    # beta / 4 of what packing may move a pair's two responses by, table against step: see support/rounding.py.
    assert float(rows[0]["loss"]) == pytest.approx(0.6931471805599453, abs=1e-5)
    assert {"accuracy_low", "accuracy_high"} <= rows[-1].keys()
    card = (place / "run" / "model" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert summary["held_out"]["accuracy"] == rows[-1]["accuracy"]
    assert any((place / "run" / "tensorboard").iterdir())

    again = run_cli(monkeypatch, capsys, "dpo", str(place / "run" / "config.yaml"))
    assert again.code == 0
    assert "is finished at step 2; nothing to do" in again.err


def test_ref_build_then_dpo_scores_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words_of(place, "built"), f"cache={place / 'other-cache'}"]
    words.remove(f"cache={place / 'cache'}")
    built = run_cli(monkeypatch, capsys, "ref", "build", *words)
    assert built.code == 0
    assert "reference: 40 responses scored" in built.err
    assert not (place / "built").exists()
    for number, changes in enumerate((("beta=.5", "lr=1e-5"), ("loss=ipo", "seed=3", "epochs=2"))):
        words[2] = f"out={place / f'built-{number}'}"
        trained = run_cli(monkeypatch, capsys, "dpo", *words, *changes)
        assert trained.code == 0, trained.err
        assert "reference: 0 responses scored in 0 forwards" in trained.err


def test_another_reference_starts_elsewhere(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(place / "reference", seed=5)
    found = run_cli(monkeypatch, capsys, "dpo", *words_of(place, "ref"), f"reference={place / 'reference'}")
    assert found.code == 0, found.err
    assert "policy equals reference" not in found.err
    assert abs(float(rows_of(place / "ref")[0]["margin"])) > 1e-3


def test_sft_on_the_chosen_side(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = run_cli(monkeypatch, capsys, "sft", *words_of(place, "sft"))
    assert refused.code == 2
    assert "ask for its chosen side with side=chosen" in refused.err
    found = run_cli(monkeypatch, capsys, "sft", *words_of(place, "sft"), "side=chosen", "precision=bf16")
    assert found.code == 0, found.err
    assert {"loss", "response_tokens", "examples", "examples_per_second"} <= rows_of(place / "sft", clock=True)[
        0
    ].keys()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("dpo",), "error: model is not set; give it as model=VALUE or in the configuration file\n"),
        (("dpo", "nowhere.yaml"), "error: nowhere.yaml: cannot be read (No such file or directory)"),
        (("dpo", "data=d", "out=o", "model=m", "--lr=x"), "error: lr must be a finite number, got 'x'\n"),
        (("dpo", "data=d", "out=o", "model=m", "--lrr", "1"), "error: unknown option 'lrr'; did you mean 'lr'?"),
        (("dpo", "data=d", "out=o", "model=m", "--learning_rate=1"), "error: unknown option 'learning_rate'; here"),
        (("dpo", "data=d", "out=o", "model=m", "loss=dop"), "error: loss must be one of dpo, "),
        (("dpo", "data=d", "out=o", "model=m", "loss=sft"), "error: loss 'sft' alone has nothing to prefer"),
        (("dpo", "data=d", "out=o", "model=m", "loss=cdpo", "loss.label_smoothing=.5"), "error: label_smoothing must"),
        (("dpo", "data=d", "out=o", "model=m", "loss.label_smoothing=.1"), "error: loss 'dpo' does not take"),
        (("sft", "data=d", "out=o", "model=m", "beta=.1"), "error: option 'beta' belongs to `preftree dpo`"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_two(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    *before, last = err.splitlines(keepends=True)
    assert last.startswith(sentence) and last.endswith("\n")
    assert before in ([], ["preftree 0.1.0: dpo of m on d, into o\n"])
    assert not list(tmp_path.iterdir())


def test_a_lack_of_memory_is_one_sentence_wherever_it_comes(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14.00 GiB. And much more.\nOver lines.")

    monkeypatch.setattr(run, "load_policy", lacks_memory)
    found = run_cli(monkeypatch, capsys, "dpo", *words_of(place, "full"))
    assert found.code == 2
    assert (
        "error: the device ran out of memory (CUDA out of memory, Tried to allocate 14.00 GiB, And much more); use "
        in found.err
    )
    assert "Traceback" not in found.err


def test_missing_model_and_data(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(place, "never")
    found = run_cli(monkeypatch, capsys, "dpo", f"model={place / 'no-model'}", *words[1:])
    assert found.code == 2
    assert f"error: model folder '{place / 'no-model'}' does not exist" in found.err
    found = run_cli(monkeypatch, capsys, "dpo", words[0], f"data={place / 'no.jsonl'}", *words[2:])
    assert found.code == 2
    assert "no.jsonl does not exist" in found.err
    found = run_cli(monkeypatch, capsys, "dpo", *words, "micro_batch_tokens=8")
    assert found.code == 2
    assert "micro_batch_tokens must be at least" in found.err


def start(place: Path, out: str, *, hang_at: int | None = None) -> BaseProcess:
    """`preftree dpo` in a forked process, so long that only a signal ends it."""

    def child() -> None:
        sys.argv = ["preftree", "dpo", *words_of(place, out), "max_steps=100000", "save_every=null"]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        real = supervised.take_step

        def take_step(*args: object, **options: object) -> object:
            if hang_at is not None and options["name"] == f"step {hang_at}":
                (place / out / "hanging").touch()
                time.sleep(60)
            return real(*args, **options)  # pyright: ignore[reportArgumentType]

        supervised.take_step = take_step  # pyright: ignore[reportAttributeAccessIssue]
        main()

    process = get_context("fork").Process(target=child)
    process.start()
    return process


def wait_for(what: Path, size: int = 0, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what.exists() or what.stat().st_size <= size:
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_exits(place: Path, number: signal.Signals, code: int) -> None:
    out = f"signal-{code}"
    process = start(place, out)
    wait_for(place / out / "metrics.jsonl", size=1000)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == code
    (saved,) = list_checkpoints(place / out / "checkpoints")
    assert int(saved.name.removeprefix("step-")) == rows_of(place / out)[-1]["step"]


def test_a_second_signal_exits_at_once(place: Path) -> None:
    process = start(place, "twice", hang_at=2)
    wait_for(place / "twice" / "hanging", size=-1)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGTERM)
    process.join(10)
    assert process.exitcode == 143
    assert not list_checkpoints(place / "twice" / "checkpoints")

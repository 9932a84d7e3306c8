"""A run that diverges, a model that is not finite, and memory that does not suffice: one sentence each."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from preftree.cli import main as command
from preftree.cli.main import app
from preftree.errors import CheckpointError, DataError, JudgeError, ModelError, TrainingError
from preftree.generate.hf import Sampling, generate
from preftree.judges.rewards import load_rewards
from preftree.models import load
from preftree.models.load import load_model, load_tokenizer
from preftree.storage.checkpoint import load_checkpoint
from preftree.train.dpo import run_dpo
from preftree.train.sft import run_sft
from support.small_runs import dpo_config, make_model, make_pairs, sft_config

WORDS = ("max_steps=6", "save_every=1", "warmup_steps=0", "max_grad_norm=null", "optimizer=adamw", "lr=1e30")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diverged")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 12)
    return folder


@pytest.mark.parametrize("recipe", ["dpo", "sft"])
def test_a_diverged_run_ends_with_a_sentence_keeps_its_state_and_says_how_to_go_on(place: Path, recipe: str) -> None:
    def run(*words: str) -> None:
        if recipe == "dpo":
            run_dpo(dpo_config(place, recipe, *words))
        else:
            run_sft(sft_config(place, recipe, *words))

    with pytest.raises(TrainingError, match=r"step 2: loss is (nan|inf) for .*; nothing was updated: .* lower lr"):
        run(*WORDS)
    kept = load_checkpoint(place / recipe / "checkpoints")
    assert kept is not None and kept.step == 1 and kept.skipped == ()
    assert not (place / recipe / "model").exists() and not (place / recipe / "summary.json").exists()
    with pytest.raises(TrainingError, match="step 2: loss is"):  # the same options end in the same way
        run(*WORDS)
    lower = [*WORDS[:-1], "lr=1e-4"]
    with pytest.raises(
        CheckpointError, match=r"lr was 1e\+30, is 0.0001\); put that back to resume, or choose another"
    ):
        run(*lower)
    run(*lower, "resume=never")
    assert (place / recipe / "model").exists()


def test_logits_that_are_not_finite_are_not_sampled(place: Path) -> None:
    model, tokenizer = load_model(place / "model"), load_tokenizer(place / "model")
    prompts = [[5, 6], [7, 8, 9]]
    for temperature in (0.0, 1.0):
        generate(model, tokenizer, prompts, Sampling(2, temperature))
    with torch.no_grad():
        next(model.parameters())[7] = torch.nan  # the embedding of a token that the second prompt alone holds
    for temperature in (0.0, 1.0):
        with pytest.raises(ModelError, match=r"logits that are not finite for prompt \d+; .* lower lr"):
            generate(model, tokenizer, prompts, Sampling(2, temperature))


def _no_memory(*_: Any, **__: Any) -> Any:
    raise MemoryError


def test_memory_that_does_not_suffice(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text("def reward(prompt, response):\n    raise MemoryError('all of it')\n")
    with pytest.raises(JudgeError, match=r"greedy.py:reward' raised MemoryError \(all of it\)"):
        load_rewards(f"{tmp_path / 'greedy.py'}:reward")(["a"], ["b"])
    with monkeypatch.context() as patch:
        patch.setattr(load.AutoModelForCausalLM, "from_pretrained", _no_memory)
        with pytest.raises(ModelError, match=r"cannot be loaded as .*: it does not fit into memory"):
            load_model(place / "model")
    log, handler = logging.getLogger("preftree"), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        for name in ("handlers", "level", "propagate"):  # put back, too
            patch.setattr(log, name, getattr(log, name))
        patch.setattr(signal, "signal", lambda *_: handler)
        patch.setattr(command, "app", _no_memory)
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == 2


@pytest.mark.skipif(os.name != "posix", reason="names of files are text there")
def test_names_of_files_that_are_not_utf_8(place: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")
    try:
        Path(odd).write_bytes((place / "pairs.jsonl").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    for words in (
        ["data", "inspect", odd],
        ["data", "convert", odd, str(tmp_path / "out.jsonl")],
        ["generate", str(place / "model"), odd, str(tmp_path / "drawn.jsonl")],
    ):
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, DataError), done.exception
        assert r"\udcff.jsonl' is not UTF-8" in str(done.exception)
    assert not (tmp_path / "out.jsonl").exists()

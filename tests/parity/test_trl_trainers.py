"""One script, two imports: `preftree.trl` gives the losses of TRL's trainers, step by step."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.small_runs import make_model

trl = pytest.importorskip("trl", reason="needs the bench extra")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

STEPS, BATCH = 20, 4
COMMON: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": BATCH,
    "learning_rate": 1e-3,
    "warmup_steps": 5,
    "train_sampling_strategy": "sequential",
    "bf16": False,
    "use_cpu": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("trl") / "model"))


def pairs() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)

    def text() -> str:
        return "".join(f" {word}" for word in rng.choice(["good", "fine", "dull", "plot", "very"], rng.integers(1, 9)))

    rows = [{"prompt": f"{index}:{text()}", "chosen": text(), "rejected": text() + " bad"} for index in range(30)]
    return [*rows, *rows[:10]]  # a row that comes twice is trained on twice


def script(module: ModuleType, kind: str, model: str, out: Path) -> list[float]:
    """A script as TRL's documentation has them; `module` is the one line that differs."""
    tokenizer, rows = AutoTokenizer.from_pretrained(model), pairs()
    common = {"output_dir": str(out), **COMMON}
    data: dict[str, Any] = {"processing_class": tokenizer, "train_dataset": Dataset.from_list(rows)}
    match kind:
        case "dpo":
            trainer = module.DPOTrainer(model, args=module.DPOConfig(**common), **data)
        case "dpo in memory":
            loaded = AutoModelForCausalLM.from_pretrained(model)
            trainer = module.DPOTrainer(loaded, args=module.DPOConfig(**common, beta=0.5), **data)
        case "dpo with an adapter":
            lora = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM")
            trainer = module.DPOTrainer(model, args=module.DPOConfig(**common), peft_config=lora, **data)
        case "a sum over two batches":
            halves = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}
            losses = {"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.2]}
            trainer = module.DPOTrainer(model, args=module.DPOConfig(**common | halves | losses), **data)
        case "cut rows":
            cut = {"max_length": 40, "lr_scheduler_type": "cosine", "weight_decay": 0.1}
            trainer = module.DPOTrainer(model, args=module.DPOConfig(**common | cut), **data)
        case "sft":
            shown = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
            data["train_dataset"] = Dataset.from_list(shown)
            trainer = module.SFTTrainer(model, args=module.SFTConfig(**common), **data)
        case "reward":
            args = module.RewardConfig(**common, center_rewards_coefficient=0.01)
            trainer = module.RewardTrainer(model, args=args, **data)
        case "kto without its kl":
            sides = ("chosen", "rejected")
            labelled = [
                {"prompt": row["prompt"], "completion": row[sides[index % 2]], "label": index % 2 == 0}
                for index, row in enumerate(rows)
            ]
            data["train_dataset"] = Dataset.from_list(labelled)
            args = module.KTOConfig(**common, loss_type="apo_zero_unpaired")
            trainer = module.KTOTrainer(model, args=args, **data)
        case _:
            raise AssertionError(kind)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


KINDS = (
    *("dpo", "dpo in memory", "dpo with an adapter", "a sum over two batches", "cut rows", "sft", "reward"),
    "kto without its kl",
)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_equal_trls(kind: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTREE_CACHE", str(tmp_path / "cache"))
    ours = script(importlib.import_module("preftree.trl"), kind, model, tmp_path / "ours")
    theirs = script(trl, kind, model, tmp_path / "theirs")
    assert len(ours) == len(theirs) == STEPS
    print(f"{kind}: largest difference {np.max(np.abs(np.array(ours) - theirs)):.1e}")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["DPOConfig", "SFTConfig", "RewardConfig", "KTOConfig", "CPOConfig"])
def test_every_field_and_default_is_trls(name: str) -> None:
    theirs = getattr(trl, name, None) or getattr(importlib.import_module("trl.experimental.cpo"), name)
    ours = getattr(importlib.import_module("preftree.trl"), name)
    assert {field.name for field in dataclasses.fields(ours)} == {field.name for field in dataclasses.fields(theirs)}
    mine, given = (config("out", use_cpu=True) for config in (ours, theirs))
    for field in dataclasses.fields(theirs):
        if field.name != "pad_to_multiple_of":  # TRL resolves it at once
            assert str(getattr(mine, field.name)) == str(getattr(given, field.name)), field.name

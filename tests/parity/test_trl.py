"""Side by side with TRL's DPOTrainer: the same model, pairs, order and optimiser give the same losses, step by step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config
from preftree.data.tokens.tokenize import tokenize_file
from preftree.losses import bind
from preftree.models.load import load_model, load_tokenizer
from preftree.reference.build import build_reference
from preftree.reference.key import table_key, weights_digest_of_model
from preftree.reference.store import ReferenceTable
from preftree.runtime.ranks import open_ranks
from preftree.scoring.scorer import Scorer
from preftree.train.dpo import run_dpo
from preftree.train.step.batch import Batch
from preftree.train.step.update import take_step
from support.models import tiny_llama
from support.order import step_indices
from support.precision import TrulyFloat64
from support.tasks import pair_task

pytest.importorskip("trl", reason="needs the bench extra")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

STEPS, BATCH = 20, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama, a tokenizer of one token a word, and pairs of random words, some of them with one prompt."""
    folder = tmp_path_factory.mktemp("parity")
    words = ["<pad>", "<bos>", "<eos>", *(f"w{number}" for number in range(98))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder / "model")
    model = tiny_llama(seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    model.save_pretrained(folder / "model")
    rng = np.random.default_rng(0)

    def text(most: int) -> str:
        return " ".join(f"w{number}" for number in rng.integers(0, 98, rng.integers(2, most)))

    prompts = [text(30) + " " for _ in range(60)]
    rows = [{"prompt": prompts[index % 60], "chosen": text(20), "rejected": text(20)} for index in range(STEPS * BATCH)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def order(num_examples: int) -> np.ndarray:
    steps = [step_indices(step, num_examples=num_examples, batch_size=BATCH, seed=0) for step in range(STEPS)]
    return np.concatenate(steps)


def trl_losses(folder: Path, out: Path, dtype: torch.dtype, lr: float, beta: float) -> list[float]:
    from datasets import Dataset
    from trl import DPOConfig as TrlConfig
    from trl import DPOTrainer

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *_: object) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    options = TrlConfig(
        output_dir=str(out),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=lr,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=1.0,
        beta=beta,
        optim="adamw_torch",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = InOrder(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype),
        ref_model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype),
        args=options,
        train_dataset=Dataset.from_list([rows[index] for index in order(len(rows))]),
        processing_class=load_tokenizer(folder / "model"),
    )
    losses: list[float] = []
    true = trainer.compute_loss

    def keep(*args: object, **kwargs: object) -> object:
        loss = true(*args, **kwargs)
        losses.append(float((loss[0] if isinstance(loss, tuple) else loss).detach()))  # the log rounds to fp32
        return loss

    trainer.compute_loss = keep
    trainer.train()
    return losses


@pytest.mark.parametrize(("lr", "beta"), [(1e-6, 0.1), (1e-3, 1.0)])
def test_fp32_through_the_whole_run(folder: Path, tmp_path: Path, lr: float, beta: float) -> None:
    config = {
        "model": str(folder / "model"),
        "data": {"path": str(folder / "pairs.jsonl"), "order": "example"},
        "out": str(tmp_path / "run"),
        "cache": str(tmp_path / "cache"),
        "beta": beta,
        "lr": lr,
        "optimizer": "adamw",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "schedule": "constant",
        "warmup_steps": 0,
        "batch_size": BATCH,
    }
    run_dpo(check_config(DpoConfig, config))
    ours = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    theirs = trl_losses(folder, tmp_path / "trl", torch.float32, lr, beta)
    assert len(ours) == len(theirs) == STEPS
    assert ours[0] == pytest.approx(np.log(2), abs=1e-5)
    print(f"largest relative difference {np.max(np.abs(np.array(ours) / theirs - 1)):.1e}")
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("lr", "beta", "tolerance"), [(1e-6, 0.1, 1e-9), (1e-3, 1.0, 1e-6)])
def test_float64(folder: Path, tmp_path: Path, lr: float, beta: float, tolerance: float) -> None:
    """TRL keeps log-probs in fp32 and transformers its norms: both are made to answer in float64.

    The backward of TRL's head runs inside the autograd engine, where nothing can make it: its gradients stay fp32,
    which shows once the learning rate is large.
    """
    with TrulyFloat64():
        store, _ = tokenize_file(
            str(folder / "pairs.jsonl"),
            load_tokenizer(folder / "model"),
            kind="pair",
            cache_dir=tmp_path / "cache",
        )
        scorer = Scorer(load_model(folder / "model", dtype=torch.float64))
        table = ReferenceTable.open(tmp_path, table_key(weights_digest_of_model(scorer.model), scorer.numeric_mode))
        build_reference(table, scorer, [store[index].sequences for index in range(len(store))], budget=4096)
        task = pair_task(bind("dpo", {"beta": beta}), table)
        optimizer = torch.optim.AdamW(scorer.parameters(), lr=lr, weight_decay=0.0)
        ours = []
        with open_ranks() as ranks:
            for rows in order(len(store)).reshape(STEPS, BATCH):
                result = take_step(
                    Batch(task, store, rows), scorer, optimizer, budget=4096, max_grad_norm=1.0, ranks=ranks
                )
                ours.append(float(result.columns["loss"].mean()))
        theirs = trl_losses(folder, tmp_path / "trl", torch.float64, lr, beta)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)

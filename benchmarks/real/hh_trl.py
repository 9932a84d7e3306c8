"""TRL's DPO on rows in their order, at the number of pairs at once that is fastest in a trial; run by hh.py."""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any


def main() -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--beta", type=float, required=True)
    parser.add_argument("--lr", type=float, required=True)
    options = parser.parse_args()
    pairs = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()]
    trials = {at_once: seconds(options, pairs[:16], at_once, 16) for at_once in (1, 2, 4)}
    fastest = min(trials, key=lambda at_once: trials[at_once])
    spent = time.perf_counter() - began
    trainer = make_trainer(options, pairs, fastest, options.batch)
    trainer.train()
    trainer.save_model(str(options.out / "model"))
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    figures = {
        "seconds": time.perf_counter() - began - spent,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "pairs_at_once": fastest,
        "seconds_of_16_pairs": trials,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }
    (options.out / "figures.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")


def seconds(options: argparse.Namespace, pairs: list[Any], at_once: int, batch: int) -> float:
    """Wall time of training on a few pairs."""
    trainer = make_trainer(options, pairs, at_once, batch)
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def make_trainer(options: argparse.Namespace, pairs: list[Any], at_once: int, batch: int) -> Any:
    """TRL's trainer with the options of hh.py, reference log-probs computed beforehand, no gradient checkpointing."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *_: object) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    config = DPOConfig(
        output_dir=str(options.out / "trainer"),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=batch // at_once,
        num_train_epochs=1,
        learning_rate=options.lr,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=options.beta,
        max_length=None,
        optim="adamw_torch_fused",
        bf16=False,
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        report_to="none",
        save_strategy="no",
    )
    return InOrder(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(pairs),
        processing_class=AutoTokenizer.from_pretrained(options.model),
    )


if __name__ == "__main__":
    main()

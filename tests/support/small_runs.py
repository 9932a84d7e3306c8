"""Small real runs: a model folder, files of pairs and demonstrations, and the words of a command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import transformers

from preftree.config.dpo import DpoConfig
from preftree.config.load import load_config
from preftree.config.sft import SftConfig
from preftree.run_folder.metrics_file import TIME_FIELDS
from support.models import tiny_llama
from support.tokenizers import plain_tokenizer

WORDS = ("good", "fine", "bad", "dull", "plot", "movie", "very", "not", "the", "was", "great", "awful")


def make_model(folder: Path, *, seed: int = 0) -> Path:
    """A tiny Llama with a byte-level tokenizer, saved the way transformers saves."""
    tokenizer = plain_tokenizer()
    model = tiny_llama(len(tokenizer), seed=seed)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_pairs(path: Path, number: int = 20, *, seed: int = 0) -> Path:
    """Pairs of short texts; every prompt has two of them."""
    rng = np.random.default_rng(seed)

    def text(most: int) -> str:
        return " ".join(rng.choice(WORDS, int(rng.integers(1, most))))

    rows = []
    for index in range(number):
        prompt = rows[-1]["prompt"] if index % 2 else f"{index}: {text(6)} ->"
        rows.append({"prompt": prompt, "chosen": f" {text(7)} good", "rejected": f" {text(7)} bad"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dpo_config(folder: Path, out: str, *words: str) -> DpoConfig:
    """A run of a few steps in `folder`, where `make_model` and `make_pairs` have put a model and pairs."""
    given = {word.partition("=")[0] for word in words}
    base = [
        f"model={folder / 'model'}",
        f"data={folder / 'pairs.jsonl'}",
        f"out={folder / out}",
        f"cache={folder / 'cache'}",
        "batch_size=4",
        "micro_batch_tokens=128",
        "lr=1e-3",
        "warmup_steps=2",
        "snapshots=null",
    ]
    return load_config(DpoConfig, [word for word in base if word.partition("=")[0] not in given] + list(words))


def sft_config(folder: Path, out: str, *words: str) -> SftConfig:
    """As `dpo_config`, imitating the chosen side of the pairs."""
    config = dpo_config(folder, out, *words)
    shared = {name: value for name, value in config.model_dump().items() if name in SftConfig.model_fields}
    return SftConfig(**shared | {"side": "chosen", "optimizer": "adamw", "schedule": "linear"})


def rows_of(out: Path, *, clock: bool = False) -> list[dict[str, float | str]]:
    """The rows of metrics.jsonl, without the fields that measure time."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return rows if clock else [{name: row[name] for name in row if name not in TIME_FIELDS} for row in rows]


def load_trained(out: Path) -> transformers.PreTrainedModel:
    """RUN/model, by transformers alone."""
    return transformers.AutoModelForCausalLM.from_pretrained(out / "model")

"""The whole road on real preferences: a small Llama and its tokenizer are made here, then SFT, DPO, held-out accuracy.

    python benchmarks/hh.py --data hh.jsonl.gz --out runs/hh

The data are raw transcripts of Anthropic HH-RLHF (github.com/anthropics/hh-rlhf, MIT licence): `chosen`
and `rejected`. The first 700 accepted rows train, the rest are held out. Prints a table and writes OUT/figures.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/hh"))
    parser.add_argument("--train-rows", type=int, default=700)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--sft-epochs", type=int, default=2)
    parser.add_argument("--dpo-epochs", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    train, held = split(options.data, options.out, options.train_rows)
    start = make_model(train, options.out / "start", options.vocab)
    cache = f"cache={options.out / 'cache'}"
    common = [cache, f"precision={options.precision}", "max_length=1024", "truncation=trim_prompt", "resume=never"]
    figures: dict[str, dict[str, float]] = {}
    figures["sft"] = run(
        ["sft", f"model={start}", f"data={train}", "side=chosen", f"out={options.out / 'sft'}", "lr=1e-3"]
        + ["batch_size=32", f"epochs={options.sft_epochs}", "micro_batch_tokens=4096", *common]
    )
    figures["dpo"] = run(
        [
            "dpo",
            f"model={options.out / 'sft' / 'model'}",
            f"data={train}",
            f"eval_data={held}",
            f"out={options.out / 'dpo'}",
        ]
        + ["beta=0.1", "optimizer=adamw", "lr=5e-5", "batch_size=32", f"epochs={options.dpo_epochs}"]
        + ["micro_batch_tokens=4096", *common]
    )
    figures["dpo"] |= last_evaluation(options.out / "dpo")
    figures["tokens"] = token_savings(train, start, options.out / "cache")
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    show(figures)


def split(data: Path, out: Path, rows: int) -> tuple[Path, Path]:
    """Accepted rows of the file, the first `rows` apart from the rest."""
    clean = out / "accepted.jsonl"
    run(["data", "convert", str(data), str(clean)])
    lines = clean.read_text(encoding="utf-8").splitlines(keepends=True)
    parts = out / "train.jsonl", out / "held.jsonl"
    for path, part in zip(parts, (lines[:rows], lines[rows:]), strict=True):
        path.write_text("".join(part), encoding="utf-8")
    return parts


def make_model(train: Path, out: Path, vocab: int) -> Path:
    """A byte-level BPE learnt on the training rows, and a random Llama of about 10 million parameters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = []
    for line in train.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts += [row["prompt"], row["chosen"], row["rejected"]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>").save_pretrained(out)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=6,
        num_attention_heads=5,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(out)
    return out


def run(words: list[str]) -> dict[str, float]:
    """One command of the program: its wall time, and the peak memory that a training run notes of itself."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "preftree", *words], check=True)
    figures = {"seconds": time.perf_counter() - began}
    for word in words:
        if word.startswith("out="):
            summary = json.loads((Path(word.removeprefix("out=")) / "summary.json").read_bytes())
            figures["peak_gib"] = summary["peak_memory_bytes"] / 2**30
    return figures


def last_evaluation(folder: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluation = [row for row in rows if row.get("split") == "eval"][-1]
    training = [row for row in rows if row.get("split") != "eval"]
    return {name: value for name, value in evaluation.items() if isinstance(value, int | float)} | {
        "pairs_per_second": float(np.median([row["pairs_per_second"] for row in training])),
        "first_loss": training[0]["loss"],
        "last_train_loss": training[-1]["loss"],
    }


def token_savings(train: Path, model: Path, cache: Path) -> dict[str, float]:
    """Tokens of the doubled, padded forward of the usual DPO step against the tokens that the trees compute."""
    from preftree.data.tokens.tokenize import tokenize_file
    from preftree.models.load import load_tokenizer

    store, _ = tokenize_file(str(train), load_tokenizer(model), kind="pair", cache_dir=cache)
    pairs = [[len(one.ids) for one in store[index].sequences] for index in range(len(store))]
    trees = int(store.num_tokens.sum())
    doubled = sum(map(sum, pairs))
    # Padded to the longest of a batch of 8 pairs, both sides stacked.
    batches = [[length for pair in pairs[first : first + 8] for length in pair] for first in range(0, len(pairs), 8)]
    padded = sum(len(rows) * max(rows) for rows in batches)
    return {
        "tree_tokens": trees,
        "doubled_tokens": doubled,
        "padded_tokens": padded,
        "saved_of_doubled": 1 - trees / doubled,
        "saved_of_padded": 1 - trees / padded,
    }


def show(figures: dict[str, dict[str, float]]) -> None:
    table = Table(title="HH, one run")
    table.add_column("stage")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for stage, values in figures.items():
        for name, value in values.items():
            table.add_row(stage, name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)


if __name__ == "__main__":
    main()

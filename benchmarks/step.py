"""One epoch of DPO steps, preftree and TRL in turn on the same pairs and model, and our distance to the floor.

    python benchmarks/step.py --profile hh --precision fp32 --rounds 5

Each turn is a process of its own, so that its peak memory is its own. TRL runs as it is fastest here: reference
log-probs precomputed, no gradient checkpointing. The floor is the time that the matrix products of the
unique tokens and of the scored positions take, forward and twice that for the backward, best of 5 in the same process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# Mean tokens of prompt, chosen and rejected, responses to a prompt, and the spread of the logarithm of lengths.
PROFILES: dict[str, dict[str, Any]] = {
    "hh": {"prompt": 120, "responses": (42, 53), "spread": 0.8},
    "ultrafeedback": {"prompt": 190, "responses": (330, 330), "spread": 0.5},
    "summarize": {"prompt": 370, "responses": (32, 32), "spread": 0.3},
    "k4": {"prompt": 120, "responses": (48, 48, 48, 48), "spread": 0.6},
    "long": {"prompt": 3600, "responses": (200, 200), "spread": 0.1},
}
# width, intermediate, layers, heads
SIZES = {"9m": (256, 688, 6, 4), "31m": (384, 1024, 12, 6), "110m": (768, 2048, 12, 12)}
VOCABULARY = 16_000
BETA, LR = 0.1, 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=PROFILES, default="hh")
    parser.add_argument("--size", choices=SIZES, default="31m")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--trl-batch", type=int, default=0, help="TRL's rows at once; 0: the whole batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--turn", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        result = ours(options) if options.turn == "ours" else trl(options)
        (options.folder / f"{options.turn}.json").write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        prepare(options)
        turns = ["ours"] if options.without_trl else ["ours", "trl"]
        results: dict[str, list[dict[str, Any]]] = {turn: [] for turn in turns}
        for number in range(options.rounds):
            for turn in turns:
                results[turn].append(take_turn(turn, options))
                print(f"round {number + 1} {turn}: {results[turn][-1]['seconds']:.2f} s", file=sys.stderr)
    report(results, options)


def take_turn(turn: str, options: argparse.Namespace) -> dict[str, Any]:
    words = [f"--{name}={getattr(options, name)}" for name in ("profile", "size", "precision", "pairs", "batch")]
    words += [f"--trl-batch={options.trl_batch}", f"--turn={turn}", f"--folder={options.folder}"]
    subprocess.run([sys.executable, "-W", "ignore", __file__, *words], check=True, stdout=subprocess.DEVNULL)
    return json.loads((options.folder / f"{turn}.json").read_text())


def report(results: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    pairs = results["ours"][0]["pairs"]
    seconds = {turn: [one["seconds"] for one in turns] for turn, turns in results.items()}
    peak = {turn: statistics.median(one["peak_mib"] for one in turns) for turn, turns in results.items()}
    figures: dict[str, Any] = {
        "profile": options.profile,
        "size": options.size,
        "precision": options.precision,
        "pairs": pairs,
        "tokens": results["ours"][0]["tokens"],
        "efficiency": statistics.median(one["floor"] / one["seconds"] for one in results["ours"]),
        "best_efficiency": max(one["floor"] / one["seconds"] for one in results["ours"]),
    }
    for turn in results:
        figures[turn] = {
            "pairs_per_second": round(pairs / statistics.median(seconds[turn]), 3),
            "seconds": [round(one, 3) for one in sorted(seconds[turn])],
            "peak_mib": round(peak[turn]),
        }
    if "trl" in results:
        ratios = [b / a for a, b in zip(seconds["ours"], seconds["trl"], strict=True)]
        figures["speed_ratio"] = {"median": statistics.median(ratios), "all": [round(one, 2) for one in ratios]}
        figures["memory_ratio"] = peak["ours"] / peak["trl"]
        figures["largest_loss_difference"] = max(
            abs(a - b) for a, b in zip(results["ours"][0]["losses"], results["trl"][0]["losses"], strict=True)
        )
    print(json.dumps(figures, indent=1))


def prepare(options: argparse.Namespace) -> None:
    """Pairs of random words, a tokenizer of one token a word, and a random Llama."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", *(f"w{number}" for number in range(VOCABULARY - 3))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(options.folder / "model")
    width, inner, layers, heads = SIZES[options.size]
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=8192,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).save_pretrained(options.folder / "model")

    profile = PROFILES[options.profile]
    rng = np.random.default_rng(0)

    def text(mean: float) -> str:
        spread = profile["spread"]
        length = int(np.exp(rng.normal(np.log(mean) - spread**2 / 2, spread)))
        return " ".join(f"w{number}" for number in rng.integers(0, VOCABULARY - 3, max(2, min(length, 4 * mean))))

    rows: list[dict[str, str]] = []
    while len(rows) < options.pairs:
        prompt, responses = text(profile["prompt"]) + " ", [text(mean) for mean in profile["responses"]]
        rows += [
            {"prompt": prompt, "chosen": responses[i], "rejected": responses[j]}
            for i in range(len(responses))
            for j in range(i + 1, len(responses))
        ]
    text_rows = "".join(json.dumps(row) + "\n" for row in rows[: options.pairs])
    (options.folder / "pairs.jsonl").write_text(text_rows)


def ours(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from preftree.data.tokenize import tokenize_file
    from preftree.distributed.world import open_world
    from preftree.losses import bind
    from preftree.models.load import load_model, load_tokenizer
    from preftree.reference.build import build_reference
    from preftree.reference.key import table_key, weights_digest
    from preftree.reference.store import ReferenceTable
    from preftree.scoring.forward import Scorer
    from preftree.train.dpo import pair_task
    from preftree.train.step import take_step

    folder = options.folder
    store, _ = tokenize_file(
        str(folder / "pairs.jsonl"), load_tokenizer(folder / "model"), kind="preference", cache_dir=folder / "cache"
    )
    scorer = Scorer(load_model(folder / "model"), precision=options.precision)
    key = table_key(weights_digest(folder / "model", memo=folder / "cache"), scorer.numeric_mode)
    table = ReferenceTable.open(folder / "cache", key)
    build_reference(table, scorer, [store[index].sequences for index in range(len(store))], budget=8192)
    task = pair_task(store, bind("dpo", {"beta": BETA}), table)
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=LR, weight_decay=0.0, fused=True)
    batches = np.arange(len(store)).reshape(-1, options.batch)
    losses, tokens, seconds = [], 0, 0.0
    with open_world() as world:
        for number, rows in enumerate([batches[0], *batches]):
            began = time.perf_counter()
            result = take_step(task, rows, scorer, optimizer, budget=8192, max_grad_norm=1.0, world=world)
            if number == 0:  # warms up; TRL takes the same untimed step
                continue
            seconds += time.perf_counter() - began
            tokens += result.num_tokens
            losses.append(float(result.columns["loss"].mean()))
    scored = int(store.num_scored.sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "pairs": len(store),
        "tokens": tokens,
        "seconds": seconds,
        "losses": losses,
        "peak_mib": peak,
        "floor": floor(scorer.model, tokens, scored, len(batches), options.precision),
    }


def floor(model: Any, tokens: int, scored: int, steps: int, precision: str) -> float:
    """Seconds of the matrix products alone, over the epoch."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    total = 0.0
    known: dict[tuple[int, ...], float] = {}
    for name, weight in model.named_parameters():
        if weight.ndim != 2 or "embed" in name:
            continue
        rows = (scored if name.startswith("lm_head") else tokens) // steps
        shape = (rows, *weight.shape)
        if shape not in known:
            x, w = torch.randn(rows, weight.shape[1], dtype=dtype), torch.randn(weight.shape, dtype=dtype)
            g = torch.randn(rows, weight.shape[0], dtype=dtype)
            times = []
            for _ in range(5):
                began = time.perf_counter()
                _ = x @ w.T, g @ w, g.T @ x
                times.append(time.perf_counter() - began)
            known[shape] = min(times)
        total += known[shape] * steps
    return total


def trl(options: argparse.Namespace) -> dict[str, Any]:
    trainer, seconds = trl_trainer(options, options.trl_batch or options.batch, LR)
    trainer.train()
    return {
        "pairs": len(trainer.train_dataset) - options.batch,
        "seconds": sum(seconds[1:]),
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row][1:],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def trl_trainer(options: argparse.Namespace, at_once: int, lr: float, **more: Any) -> tuple[Any, list[float]]:
    """TRL's trainer as it is fastest here, on the pairs in their order; and the seconds of its steps as they come.

    The first batch stands once more in front: the step that warms up, as ours.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *_: object) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    seconds: list[float] = []

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *_: object, **__: object) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            seconds.append(time.perf_counter() - self.began)

    folder = options.folder
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=options.batch // at_once,
        num_train_epochs=1,
        learning_rate=lr,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=1.0,
        beta=BETA,
        max_length=None,
        optim="adamw_torch_fused",
        bf16=options.precision == "bf16",
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = InOrder(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(rows[: options.batch] + rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Clock()],
        **more,
    )
    return trainer, seconds


if __name__ == "__main__":
    main()

"""Peak memory and step time of DPO: all weights, LoRA, LoRA over a quantised base, and TRL with the same LoRA.

    python benchmarks/adapters.py --profile hh --size 31m --precision fp32 --rounds 3

Model and pairs are those of step.py. Each turn is a process of its own, so that its peak memory is its own; the turns
go round in order, so that a busy machine is busy for all. A quantised base is measured where its library is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common import PROFILES, SIZES, now, peak_mib, prepare, ready, trl_trainer

LR = 1e-5
TURNS = ("full", "lora", "lora-nf4", "lora-int8", "trl-lora")
LIBRARY = {"lora-nf4": "bitsandbytes", "lora-int8": "torchao", "trl-lora": "trl"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=PROFILES, default="hh")
    parser.add_argument("--size", choices=SIZES, default="31m")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--trl-batch", type=int, default=1, help="TRL's pairs at once; step.py finds the fastest")
    parser.add_argument("--turns", default=",".join(TURNS))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn", choices=TURNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        result = trl(options) if options.turn == "trl-lora" else ours(options)
        (options.folder / f"{options.turn}.json").write_text(json.dumps(result))
        return
    asked = options.turns.split(",")
    turns = [turn for turn in asked if turn not in LIBRARY or importlib.util.find_spec(LIBRARY[turn])]
    results: dict[str, list[dict[str, Any]]] = {turn: [] for turn in turns}
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        prepare(options)
        for number in range(options.rounds):
            for turn in turns:
                results[turn].append(take_turn(turn, options))
                print(f"round {number + 1} {turn}: {results[turn][-1]}", file=sys.stderr)
    report(results, options)


def take_turn(turn: str, options: argparse.Namespace) -> dict[str, Any]:
    names = ("profile", "size", "precision", "pairs", "batch", "trl_batch", "rank", "folder")
    words = [f"--turn={turn}", *(f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names)]
    subprocess.run([sys.executable, "-W", "ignore", __file__, *words], check=True, stdout=subprocess.DEVNULL)
    return json.loads((options.folder / f"{turn}.json").read_text())


def report(results: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    figures: dict[str, Any] = {
        name: getattr(options, name) for name in ("profile", "size", "precision", "batch", "trl_batch", "rank")
    }
    figures["not installed"] = [turn for turn in options.turns.split(",") if turn not in results]
    for turn, found in results.items():
        figures[turn] = {
            "seconds_per_step": round(statistics.median(one["seconds_per_step"] for one in found), 3),
            "peak_mib": round(statistics.median(one["peak_mib"] for one in found)),
            "trained_parameters": found[0]["trained"],
            "first_loss": found[0]["losses"][0],
        }
    print(json.dumps(figures, indent=1))


def ours(options: argparse.Namespace) -> dict[str, Any]:
    from preftree.config.lora import LoraOptions
    from preftree.models.adapters import add_adapter
    from preftree.runtime.ranks import open_ranks

    _, _, quantize = options.turn.partition("-")

    def adapt(model: Any) -> None:
        if options.turn != "full":
            add_adapter(model, LoraOptions(r=options.rank).filled(), seed=0)

    with open_ranks() as ranks:
        bench = ready(options, ranks, lr=LR, adapt=adapt, quantize=quantize or None)
        batches = np.arange(len(bench.store)).reshape(-1, options.batch)
        losses, seconds = [], []
        for rows in [batches[0], *batches]:
            began = now()
            result = bench.step(rows)
            seconds.append(now() - began)
            losses.append(float(result.columns["loss"].mean()))
    return {
        "seconds_per_step": statistics.mean(seconds[1:]),  # the first one warms up
        "losses": losses,
        "peak_mib": peak_mib(),
        "trained": sum(value.numel() for value in bench.scorer.parameters() if value.requires_grad),
    }


def trl(options: argparse.Namespace) -> dict[str, Any]:
    from peft import LoraConfig

    lora = LoraConfig(
        r=options.rank, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer, seconds = trl_trainer(options, options.trl_batch, LR, peft_config=lora)
    trainer.train()
    return {
        "seconds_per_step": statistics.mean(seconds[1:]),
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "peak_mib": peak_mib(),
        "trained": sum(value.numel() for value in trainer.model.parameters() if value.requires_grad),
    }


if __name__ == "__main__":
    main()

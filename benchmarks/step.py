"""One epoch of DPO steps, preftree and TRL in turn on the same pairs and model, and our distance to the floor.

    python benchmarks/step.py --profile hh --precision fp32 --rounds 5

Each turn is a process of its own, so that its peak memory is its own. TRL runs as it is fastest here: reference
log-probs precomputed, no gradient checkpointing. The floor is the time that the matrix products of the
unique tokens and of the scored positions take, forward and twice that for the backward, best of 5 in the same process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import BUDGET, PROFILES, SIZES, floor, make_pairs, now, peak_mib, prepare, ready, trl_trainer

LR = 1e-6
BEGAN = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=PROFILES, default="hh")
    parser.add_argument("--size", choices=SIZES, default="31m")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--budget", type=int, default=BUDGET, help="our micro_batch_tokens")
    parser.add_argument("--compile", action="store_true", help="ours with compile=true")
    parser.add_argument("--trl-batch", type=int, default=0, help="TRL's pairs at once; 0 finds the fastest")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--turn", choices=TURNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        result = TURNS[options.turn](options)
        (options.folder / f"{options.turn}.json").write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        prepare(options)
        turns = ["ours"] if options.without_trl else ["ours", "trl"]
        if not options.without_trl and not options.trl_batch:
            options.trl_batch = best_batch(options)
        results: dict[str, list[dict[str, Any]]] = {turn: [] for turn in turns}
        for number in range(options.rounds):
            for turn in turns:
                results[turn].append(take_turn(turn, options))
                print(f"round {number + 1} {turn}: {results[turn][-1]['seconds']:.2f} s", file=sys.stderr)
        tokenised = take_turn("tokenise", options)
    report(results, tokenised, options)


def best_batch(options: argparse.Namespace) -> int:
    """Pairs at once with which TRL is fastest: doubled until an epoch takes a fifth longer than the best."""
    tried: dict[int, float] = {}
    size = 1
    while options.batch % size == 0:
        options.trl_batch = size
        try:
            tried[size] = take_turn("trl", options)["seconds"]
        except subprocess.CalledProcessError:  # out of memory
            break
        if tried[size] > 1.2 * min(tried.values()):
            break
        size *= 2
    print(f"TRL's seconds by pairs at once: {tried}", file=sys.stderr)
    return min(tried, key=lambda size: tried[size])


def take_turn(turn: str, options: argparse.Namespace) -> dict[str, Any]:
    same = ("profile", "size", "precision", "pairs", "batch", "budget")
    words = [f"--{name}={getattr(options, name)}" for name in same]
    words += [f"--trl-batch={options.trl_batch}", f"--turn={turn}", f"--folder={options.folder}"]
    words += ["--compile"] if options.compile else []
    subprocess.run([sys.executable, "-W", "ignore", __file__, *words], check=True, stdout=subprocess.DEVNULL)
    return json.loads((options.folder / f"{turn}.json").read_text())


def report(results: dict[str, list[dict[str, Any]]], tokenised: dict[str, Any], options: argparse.Namespace) -> None:
    pairs = results["ours"][0]["pairs"]
    seconds = {turn: [one["seconds"] for one in turns] for turn, turns in results.items()}
    peak = {turn: statistics.median(one["peak_mib"] for one in turns) for turn, turns in results.items()}
    figures: dict[str, Any] = {
        "profile": options.profile,
        "size": options.size,
        "precision": options.precision,
        "compile": options.compile,
        "micro_batch_tokens": options.budget,
        "pairs": pairs,
        "tokens": results["ours"][0]["tokens"],
        "efficiency": statistics.median(one["floor"] / one["seconds"] for one in results["ours"]),
        "best_efficiency": max(one["floor"] / one["seconds"] for one in results["ours"]),
    }
    first = results["ours"][0]
    figures["ours, once"] = {
        name: round(first[name], 2)
        for name in (
            "to first step",
            "first step",
            "reference",
            "reference forwards",
            "reference of a second beta",
            "reference forwards of a second beta",
        )
    }
    figures["pairs tokenised per second"] = round(tokenised["pairs"] / tokenised["seconds"])
    for turn in results:
        figures[turn] = {
            "pairs_per_second": round(pairs / statistics.median(seconds[turn]), 3),
            "seconds": [round(one, 3) for one in sorted(seconds[turn])],
            "peak_mib": round(peak[turn]),
        }
    if "trl" in results:
        figures["trl"] |= {
            "pairs at once": options.trl_batch,
            "to first step": round(results["trl"][0]["to first step"], 2),
        }
        ratios = [b / a for a, b in zip(seconds["ours"], seconds["trl"], strict=True)]
        figures["speed_ratio"] = {"median": statistics.median(ratios), "all": [round(one, 2) for one in ratios]}
        figures["memory_ratio"] = peak["ours"] / peak["trl"]
        figures["largest_loss_difference"] = max(
            abs(a - b) for a, b in zip(results["ours"][0]["losses"], results["trl"][0]["losses"], strict=True)
        )
    print(json.dumps(figures, indent=1))


def ours(options: argparse.Namespace) -> dict[str, Any]:
    from preftree.runtime.ranks import open_ranks

    with open_ranks() as ranks:
        bench = ready(options, ranks, lr=LR, budget=options.budget, compiled=options.compile)
        batches = np.arange(len(bench.store)).reshape(-1, options.batch)
        began = now()
        start = began - BEGAN
        bench.step(batches[0])  # warms up; TRL takes the same untimed step
        warm = now() - began
        results, began = [], now()
        for rows in batches:
            results.append(bench.step(rows))
        seconds = now() - began
    tokens = sum(result.num_tokens for result in results)
    scored = int(bench.store.num_scored.sum())
    least = floor(bench.scorer.model, tokens // len(batches), scored // len(batches), options.precision)
    return {
        "pairs": len(bench.store),
        "tokens": tokens,
        "scored": scored,
        "seconds": seconds,
        "losses": [float(result.columns["loss"].mean()) for result in results],
        "peak_mib": peak_mib(),
        "floor": least * len(batches),
        "to first step": start,
        "first step": warm,
        **bench.seconds,
        "reference forwards": bench.forwards[0],
        "reference forwards of a second beta": bench.forwards[1],
    }


def trl(options: argparse.Namespace) -> dict[str, Any]:
    trainer, seconds = trl_trainer(options, options.trl_batch or options.batch, LR)
    trainer.train()
    return {
        "pairs": len(trainer.train_dataset) - options.batch,
        "seconds": sum(seconds[1:]),
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row][1:],
        "peak_mib": peak_mib(),
        "to first step": now() - BEGAN - sum(seconds),
    }


def tokenise(options: argparse.Namespace) -> dict[str, Any]:
    from preftree.data.tokens.tokenize import tokenize_file
    from preftree.models.load import load_tokenizer

    many = options.folder / "many.jsonl"
    make_pairs(many, PROFILES[options.profile], 5000)
    tokenizer = load_tokenizer(options.folder / "model")
    began = now()
    store, _ = tokenize_file(str(many), tokenizer, kind="pair", cache_dir=options.folder / "cache")
    return {"pairs": len(store), "seconds": now() - began}


TURNS = {"ours": ours, "trl": trl, "tokenise": tokenise}

if __name__ == "__main__":
    main()

"""PPO and RLOO against the optimum of a world, and what they cost beside DPO on the same world.

    python benchmarks/online.py --out runs/online            # resumable; three seeds
    python benchmarks/online.py --methods ppo_gt --seeds 0

World `small`, made as `preftree demo --full` makes it: 8,000 texts, 600 steps of SFT, 3,000 prompts with 4 responses
each, Bradley-Terry labels of scale 10. `ppo_gt` and `rloo_gt` are given the world's own reward, `ppo_rm` a reward model
trained on the pairs, `dpo` the pairs. Each method has a few settings of its KL coefficient (or beta); every policy is
measured exactly at its snapshots, and the best point of a method counts. Every run has a process of its own.
Writes OUT/results.json and prints tables.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from planted import HONEST, Size, collect, common, fine_tune
from preftree.worlds.sentiment import WORLDS

SIZE = Size("small", 8000, 600, 3000, 90, 600, 0.0)
WORLD = WORLDS[SIZE.world]
BUDGETS = (1.0, 2.0, 4.0)
BOUNDS = {"ppo_gt": (0.095, 0.052, 0.025), "ppo_rm": (0.12, 0.111, 0.054)}
SAMPLED = {
    "batch_size": 128,
    "minibatch_size": 128,
    "samples_per_prompt": 8,
    "max_new_tokens": WORLD.max_words,
    "generation_batch": 512,
    "max_steps": 100,
    "lr": 2e-3,
    "schedule": "cosine",
    "warmup_steps": 5,
}
# A reward model of labels of scale 10 gives rewards ten times as large, so ten times the coefficient is the same pull.
SETTINGS: dict[str, tuple[float, ...]] = {
    "ppo_gt": (0.01, 0.05, 0.2),
    "rloo_gt": (0.01, 0.05, 0.2),
    "ppo_rm": (0.1, 0.5, 2.0),
    "dpo": (0.5, 1.0, 2.0),
}
# Options that somebody has to choose before the first run, and that moved the result when they were tried here.
KNOBS = {
    "ppo_gt": "lr, kl_coef, batch, minibatch, epochs, iterations, schedule",
    "rloo_gt": "lr, kl_coef, batch, minibatch, epochs, iterations, schedule",
    "ppo_rm": "those of ppo_gt; lr and steps of the reward model",
    "dpo": "lr, beta, steps, schedule",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    method: str
    value: float
    seed: int

    def folder(self, out: Path) -> Path:
        return out / f"seed-{self.seed}" / f"{self.method}-{self.value:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/online"))
    parser.add_argument("--methods", default=",".join(SETTINGS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    methods = options.methods.split(",")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    jobs = [Job(method, value, seed) for method in methods for seed in seeds for value in SETTINGS[method]]
    began = time.perf_counter()
    # One run a process: its peak memory is its own.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, quiet, max_tasks_per_child=1) as pool:
        for future in [pool.submit(make_world, options.out, seed) for seed in seeds]:
            future.result()
        if "ppo_rm" in methods:
            for future in [pool.submit(make_reward_model, options.out, seed) for seed in seeds]:
                future.result()
        for job, future in [(job, pool.submit(make_run, options.out, job)) for job in jobs]:
            future.result()
            print(f"{time.perf_counter() - began:6.0f} s  {job.method} {job.value:g} seed {job.seed}", flush=True)
    found = {method: entry(options.out, method, seeds) for method in methods}
    (options.out / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(regrets(found))
    print(costs(found))


def quiet() -> None:
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    logging.getLogger("preftree").setLevel(logging.CRITICAL)
    disable_progress_bar()


def make_world(out: Path, seed: int) -> None:
    """The fine-tuned model of a seed, its labelled pairs, and the file of prompts."""
    from preftree.models.load import load_model, load_tokenizer

    home = out / f"seed-{seed}"
    sft = fine_tune(home, 10 * seed, SIZE)
    tokenizer, model = load_tokenizer(sft), load_model(sft)
    collect(home, 10 * seed, WORLD, model, tokenizer, "pairs", SIZE.prompts, HONEST)
    (home / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in WORLD.prompts), encoding="utf-8")


def pairs_of(home: Path) -> Path:
    (found,) = home.glob("pairs-*.jsonl")
    return found


def make_reward_model(out: Path, seed: int) -> None:
    """A Bradley-Terry reward model from the fine-tuned model and the pairs."""
    from preftree.config.load import check_config
    from preftree.config.reward import RewardConfig
    from preftree.train.reward import run_reward

    home = out / f"seed-{seed}"
    if (home / "rm" / "summary.json").exists():
        return
    options = common(home, WORLD, pairs_of(home), home / "rm") | {
        "model": str(home / "sft" / "model"),
        "lr": 1e-3,
        "schedule": "cosine",
        "batch_size": 64,
        "max_steps": SIZE.steps,
    }
    run_reward(check_config(RewardConfig, options))


def options_of(home: Path, job: Job, folder: Path) -> Mapping[str, Any]:
    machine = {"model": str(home / "sft" / "model"), "seed": job.seed, "snapshots": 1.25}
    if job.method == "dpo":
        shared = common(home, WORLD, pairs_of(home), folder)
        own = {"beta": job.value, "optimizer": "adamw", "lr": 3e-3, "schedule": "cosine", "max_steps": SIZE.steps}
        return shared | machine | own
    reward = str(home / "rm") if job.method == "ppo_rm" else f"world:{WORLD.name}"
    shared = {"data": str(home / "prompts.txt"), "out": str(folder), "cache": str(home / "cache"), "threads": 1}
    own = {"ppo_epochs": 2} if job.method == "rloo_gt" else {"ppo_epochs": 4}
    return shared | machine | SAMPLED | own | {"reward": reward, "kl_coef": job.value, "save_every": None}


def make_run(out: Path, job: Job) -> None:
    """Train, and measure at every snapshot."""
    from preftree.config.load import check_config
    from preftree.config.recipes import RECIPES
    from preftree.evaluate.frontier import trace, world_meter
    from preftree.models.load import load_model, load_tokenizer
    from preftree.train.dpo import run_dpo
    from preftree.train.ppo import run_ppo, run_rloo
    from preftree.worlds.exact import best_reward, measure
    from preftree.worlds.grammar import rewards
    from preftree.worlds.walk import outcome_logps

    home, folder = out / f"seed-{job.seed}", job.folder(out)
    if (folder / "result.json").exists():
        return
    if folder.exists():
        shutil.rmtree(folder)  # was broken off
    recipe = job.method.split("_")[0]
    options = options_of(home, job, folder)
    began = time.process_time()  # of one thread: what else the machine does is no cost of the method
    if recipe == "dpo":
        run_dpo(check_config(RECIPES["dpo"], options))  # pyright: ignore[reportArgumentType]
    elif recipe == "ppo":
        run_ppo(check_config(RECIPES["ppo"], options))  # pyright: ignore[reportArgumentType]
    else:
        run_rloo(check_config(RECIPES["rloo"], options))  # pyright: ignore[reportArgumentType]
    seconds = time.process_time() - began
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

    tokenizer, reference, table = (
        load_tokenizer(home / "sft" / "model"),
        load_model(home / "sft" / "model"),
        rewards(WORLD),
    )
    ref_logps = outcome_logps(reference, tokenizer, WORLD)
    points = trace(folder, world_meter(WORLD, tokenizer, ref_logps), beta=None, seed=job.seed, first=4)
    start = measure(ref_logps, ref_logps, table).reward
    result = {
        "points": [{"step": point.step, "kl": point.kl, "reward": point.reward} for point in points],
        "start": start,
        "optimum": [best_reward(ref_logps, table, kl) for kl in BUDGETS],
        "seconds": seconds,
        "parts": {
            part: sum(row.get(f"seconds_{part}", 0.0) for row in rows) for part in ("generating", "scoring", "updating")
        },
        "samples": summary["examples"] if recipe != "dpo" else 0,
        "tokens": summary["tokens"],
        "memory": summary["peak_memory_bytes"],
        "models": summary.get("models_in_memory", 1) + (job.method == "ppo_rm"),
    }
    for name in ("snapshots", "checkpoints", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "result.json").write_text(json.dumps(result) + "\n", encoding="utf-8")


def entry(out: Path, method: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Regret of each seed at each budget, by the best point of all settings; and what a run cost."""
    by_seed, runs = [], []
    for seed in seeds:
        own = [
            json.loads((Job(method, value, seed).folder(out) / "result.json").read_text(encoding="utf-8"))
            for value in SETTINGS[method]
        ]
        runs += own
        points = [point for one in own for point in one["points"]]
        by_seed.append(
            [
                best - max([own[0]["start"], *(point["reward"] for point in points if point["kl"] <= kl)])
                for kl, best in zip(BUDGETS, own[0]["optimum"], strict=True)
            ]
        )
    means = {name: statistics.fmean(run[name] for run in runs) for name in ("seconds", "samples", "tokens", "memory")}
    parts = {part: statistics.fmean(run["parts"][part] for run in runs) for part in runs[0]["parts"]}
    return {"regret": by_seed, **means, "parts": parts, "models": runs[0]["models"], "settings": len(SETTINGS[method])}


def regrets(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| regret at | " + " | ".join(f"KL ≤ {kl:g}" for kl in BUDGETS) + " |", "|---" * (len(BUDGETS) + 1) + "|"]
    for method, one in found.items():
        cells = []
        for place in range(len(BUDGETS)):
            values = [seed[place] for seed in one["regret"]]
            bound = f", at most {BOUNDS[method][place]:.3f}" if method in BOUNDS else ""
            cells.append(f"{statistics.fmean(values):.3f} ({' '.join(f'{v:.3f}' for v in values)}{bound})")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def costs(found: Mapping[str, Mapping[str, Any]]) -> str:
    heads = ("run", "CPU seconds", "samples drawn", "tokens trained on", "peak memory", "models", "settings", "knobs")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method, one in found.items():
        cells = (
            f"{one['seconds']:.0f}",
            f"{one['samples']:,.0f}",
            f"{one['tokens']:,.0f}",
            f"{one['memory'] / 2**20:.0f} MiB",
            one["models"],
            one["settings"],
            KNOBS[method],
        )
        lines.append(f"| {method} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

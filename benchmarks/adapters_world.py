"""How far LoRA gets in a world whose reward is exact: true reward within a KL budget, beside training all weights.

    python benchmarks/adapters_world.py --world small --seeds 0,1,2 --out runs/adapters-world

From one fine-tuned model and one file of pairs a seed; every method at several betas and learning rates. For each the
best true reward of any measured step within the budget is kept; the optimum is the best that any policy could have.
What is done is not done again: the script can be stopped and goes on. Writes OUT/results.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from planted import HONEST, Size, collect, common, fine_tune
from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config
from preftree.evaluate.frontier import trace, world_meter
from preftree.models.load import load_model, load_tokenizer
from preftree.storage.atomic import write_atomic
from preftree.train.dpo import run_dpo
from preftree.worlds.exact import best_reward, kl_and_reward
from preftree.worlds.grammar import reward_table
from preftree.worlds.sentiment import WORLDS
from preftree.worlds.walk import walk_outcomes

SIZES = {
    "tiny": Size("tiny", 2000, 100, 300, 60, 80, 0.0),
    "small": Size("small", 8000, 300, 1500, 90, 256, 0.0),
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"lora": None, "lr": (3e-3,)},
    "lora r 4": {"lora": {"r": 4}, "lr": (3e-3, 1e-2)},
    "lora r 16": {"lora": {"r": 16}, "lr": (3e-3, 1e-2)},
    "lora r 4, head": {"lora": {"r": 4, "modules_to_save": ["lm_head"]}, "lr": (3e-3, 1e-2)},
    "lora r 16, head": {"lora": {"r": 16, "modules_to_save": ["lm_head"]}, "lr": (3e-3, 1e-2)},
}
"""The world's models are 64 wide, and a frozen LM head is a narrow door there: `head` trains it as well."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=SIZES, default="small")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--betas", default="0.3,0.6,1,2,5")
    parser.add_argument("--budget", type=float, default=4.0, help="nats of KL")
    parser.add_argument("--steps", type=int, default=0, help="of each run; 0 is the world's own number")
    parser.add_argument("--out", type=Path, default=Path("runs/adapters-world"))
    options = parser.parse_args()
    logging.getLogger("preftree").addHandler(logging.StreamHandler())
    results: list[dict[str, Any]] = []
    for seed in (int(word) for word in options.seeds.split(",")):
        results += one_seed(options, seed)
        write_atomic(options.out / "results.json", json.dumps(results, indent=1) + "\n")
    for method in ("optimum", *METHODS):
        best = {one["seed"]: one for one in sorted(results, key=lambda one: one["reward"]) if one["method"] == method}
        mean = sum(one["reward"] for one in best.values()) / len(best)
        each = ", ".join(f"{one['reward']:.4f}" for _, one in sorted(best.items()))
        print(f"{method:15} true reward at KL <= {options.budget:g}: {mean:.4f} (seeds: {each})")


def one_seed(options: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    size = SIZES[options.world]
    home, world = options.out / options.world / f"seed-{seed}", WORLDS[size.world]
    sft = fine_tune(home, seed, size)
    tokenizer, reference = load_tokenizer(sft), load_model(sft)
    pairs = collect(home, seed, world, reference, tokenizer, "pairs", size.prompts, HONEST)
    outcomes, table = walk_outcomes(reference, tokenizer, world), reward_table(world)
    ref_logps, meter = outcomes.logps, world_meter(world, tokenizer, outcomes)
    start = kl_and_reward(ref_logps, ref_logps, table).reward
    optimum = best_reward(ref_logps, table, options.budget)
    found: list[dict[str, Any]] = [{"method": "optimum", "seed": seed, "reward": optimum}]
    for method, how in METHODS.items():
        for lr in how["lr"]:
            for beta in (float(word) for word in options.betas.split(",")):
                folder = home / f"{method.replace(', ', '-').replace(' ', '-')}-lr{lr:g}-beta{beta:g}"
                run_dpo(
                    check_config(
                        DpoConfig,
                        common(home, world, pairs, folder)
                        | {
                            "model": str(sft),
                            "beta": beta,
                            "lora": how["lora"],
                            "optimizer": "adamw",
                            "lr": lr,
                            "schedule": "cosine",
                            "batch_size": 32,
                            "max_steps": options.steps or size.steps,
                            "snapshots": 1.5,
                            "seed": seed,
                        },
                    )
                )
                points = trace(folder, meter, beta=beta, seed=seed, first=5)
                within = [point.reward for point in points if point.kl <= options.budget]
                best = max(within, default=start)
                found.append({"method": method, "seed": seed, "beta": beta, "lr": lr, "reward": best})
    return found


if __name__ == "__main__":
    main()

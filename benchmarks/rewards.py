"""What a reward model learns of a known reward, and what DPO's policy knows of it, in and out of distribution.

    python benchmarks/rewards.py --out runs/rewards                 # three seeds, equal data and steps
    python benchmarks/rewards.py --pairs 60,240 --widths 16,32      # and by number of pairs and by width of the models

For each seed of the world `small`: one fine-tuned model, pairs between its samples, a reward model and DPO at one beta
on the same pairs with the same optimiser, each for one and for four passes over all pairs, of which the one with the
lower loss on other held-out pairs is kept. Both rank held-out pairs of the same kind, of prompts nobody asked, of
another grammar, and of both. `best` is how often the true reward itself agrees with the labels. What is done is not
done again.
Writes OUT/results.json and prints tables.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from planted import HONEST, Size, collect, common, fine_tune, write_rows
from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config
from preftree.config.reward import RewardConfig
from preftree.config.sft import SftConfig
from preftree.evaluate.implicit_rewards import compare_rewards
from preftree.models.load import load_model, load_tokenizer
from preftree.models.write_folder import save_model
from preftree.run_folder.reader import read_run
from preftree.storage.atomic import write_atomic
from preftree.train.dpo import run_dpo
from preftree.train.reward import run_reward
from preftree.train.sft import run_sft
from preftree.worlds.grammar import reward
from preftree.worlds.out_of_distribution import shifted_pairs
from preftree.worlds.sentiment import WORLDS, build_model

SIZE = Size("small", 8000, 300, 1500, 150, 256, 0.0)
WORLD = WORLDS[SIZE.world]
LR = 1e-3
TIMES = (1, 4)
SPLITS = {
    "in": None,
    "prompts": {"prompts": True, "grammar": False},
    "grammar": {"prompts": False, "grammar": True},
    "both": {"prompts": True, "grammar": True},
}
NUM_SHIFTED = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--pairs", default="", help="numbers of prompts with pairs, beside all 1500")
    parser.add_argument("--widths", default="", help="widths of policy and reward model, beside 64")
    parser.add_argument("--out", type=Path, default=Path("runs/rewards"))
    options = parser.parse_args()
    logging.getLogger("preftree").addHandler(logging.StreamHandler())
    logging.getLogger("preftree").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    settings = [(SIZE.prompts, 64)]
    settings += [(int(num), 64) for num in options.pairs.split(",") if num]
    settings += [(SIZE.prompts, int(width)) for width in options.widths.split(",") if width]
    for num, width in settings:
        for seed in map(int, options.seeds.split(",")):
            began = time.perf_counter()
            setting(options.out, seed, num, width, options.beta)
            print(f"{num} prompts, width {width}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    rows = [json.loads(path.read_bytes()) for path in sorted(options.out.glob("seed-*/*/figures.json"))]
    write_atomic(options.out / "results.json", json.dumps(rows, indent=1) + "\n")
    show(rows)


def setting(out: Path, seed: int, num: int, width: int, beta: float) -> None:
    """Train both kinds for both lengths, choose, and rank the files; skipped where it is done."""
    home = out / f"seed-{seed}"
    folder = home / f"prompts{num}-width{width}-beta{beta:g}"
    if (folder / "figures.json").exists():
        return
    sft = fine_tune(home, seed, SIZE)
    tokenizer, model = load_tokenizer(sft), load_model(sft)
    pairs = collect(home, seed, WORLD, model, tokenizer, "pairs", num, HONEST)
    chosen_on = collect(home, seed + 1000, WORLD, model, tokenizer, "choice", SIZE.held_out, HONEST)
    files = {"in": collect(home, seed, WORLD, model, tokenizer, "held_out", 2 * SIZE.held_out, HONEST)}
    for name, how in SPLITS.items():
        if how is not None:
            files[name] = home / f"ood-{name}.jsonl"
            if not files[name].exists():
                found = shifted_pairs(WORLD, NUM_SHIFTED, HONEST, seed, **how)
                write_rows(files[name], found.preferences)
    start = sft if width == 64 else widened(home, seed, width, tokenizer)
    best: dict[str, tuple[float, Path]] = {}
    for kind in ("reward", "dpo"):
        for times in TIMES:
            place = folder / f"{kind}-steps{times * SIZE.steps}"
            options = common(home, WORLD, pairs, place) | {
                "model": str(start),
                "optimizer": "adamw",
                "lr": LR,
                "max_grad_norm": 1.0,
                "schedule": "cosine",
                "batch_size": 32,
                "max_steps": times * SIZE.steps,
                "eval_data": str(chosen_on),
            }
            if kind == "dpo":
                outcome = run_dpo(check_config(DpoConfig, options | {"beta": beta}))
            else:
                outcome = run_reward(check_config(RewardConfig, options))
            loss = outcome.figures.get("loss") or json.loads((place / "summary.json").read_bytes())["held_out"]["loss"]
            best[kind] = min(best.get(kind, (np.inf, place)), (loss, place))
    run = read_run(best["dpo"][1])
    found = compare_rewards(run, [str(path) for path in files.values()], against=f"rm:{best['reward'][1]}")
    figures = {
        "seed": seed,
        "prompts": num,
        "width": width,
        "beta": beta,
        "train_pairs": len(pairs.read_text().splitlines()),
        "chosen": {kind: place.name for kind, (_, place) in best.items()},
        "best": {name: best_accuracy(path) for name, path in files.items()},
        "splits": {name: one.as_json() for name, one in zip(files, found, strict=True)},
    }
    write_atomic(folder / "figures.json", json.dumps(figures, indent=1) + "\n")


def widened(home: Path, seed: int, width: int, tokenizer: Any) -> Path:
    """Another width fine-tuned on the same corpus."""
    sft = home / f"sft-{width}"
    if not (sft / "summary.json").exists():
        save_model(
            build_model(tokenizer, seed, width), tokenizer, home / f"model-{width}", card="# An untrained model\n"
        )
        options = {"lr": 1e-2, "schedule": "cosine", "batch_size": 64, "max_steps": SIZE.sft_steps}
        told = common(home, WORLD, home / "corpus.jsonl", sft) | options | {"model": str(home / f"model-{width}")}
        run_sft(check_config(SftConfig, told))
    return sft / "model"


def best_accuracy(path: Path) -> float:
    """How often the label is what the true reward says, weighted."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    gaps = [reward(WORLD, row["prompt"], row["chosen"]) - reward(WORLD, row["prompt"], row["rejected"]) for row in rows]
    right = (1 + np.sign(gaps)) / 2
    return float(np.average(right, weights=[row.get("weight", 1.0) for row in rows]))


def show(rows: list[dict[str, Any]]) -> None:
    """Means over seeds, with the lowest and the highest."""
    for key in dict.fromkeys((row["prompts"], row["width"], row["beta"]) for row in rows):
        own = [row for row in rows if (row["prompts"], row["width"], row["beta"]) == key]
        pairs = round(statistics.fmean(row["train_pairs"] for row in own))
        print(f"\n{pairs} pairs, width {key[1]}, beta {key[2]:g}, {len(own)} seeds\n")
        print("| pairs | best | reward model | DPO | DPO - reward model | calibration error, RM | DPO |")
        print("|---|---|---|---|---|---|---|")
        for name in SPLITS:
            split = [row["splits"][name] for row in own]
            cells = [
                spread([row["best"][name] for row in own]),
                spread([one["explicit"]["accuracy"]["value"] for one in split]),
                spread([one["implicit"]["accuracy"]["value"] for one in split]),
                spread([one["difference"]["value"] for one in split], sign=True),
                spread([one["explicit"]["calibration_error"] for one in split]),
                spread([one["implicit"]["calibration_error"] for one in split]),
            ]
            print(f"| {name} | {' | '.join(cells)} |")


def spread(values: list[float], *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    return f"{statistics.fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()

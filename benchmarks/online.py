"""Peak memory and time of one round on 32 responses: DPO, RLOO, PPO with a critic of either kind, and a reward model.

    python benchmarks/online.py --size 31m

DPO's round is a step on 16 pairs; that of the others draws 32 responses, judges them, and makes two passes over them in
minibatches of 16. Prompts have 60 tokens, responses 32 at most, and what is computed at once is 512 tokens, so that
weights, gradients and optimisers are what memory goes to; that of the libraries is taken off. Every turn is a process
of its own, one thread; the model is random.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common import SIZES, make_model, peak_mib

TURNS = ("dpo", "rloo", "ppo shared critic", "ppo", "ppo and a reward model")
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="31m")
    parser.add_argument("--turn", choices=TURNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        print(json.dumps(take_turn(options.turn, options.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.size)
        results = {}
        for turn in TURNS:
            words = [sys.executable, "-W", "ignore", __file__, "--turn", turn, "--folder", name]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            results[turn] = json.loads(done.stdout.splitlines()[-1])
    print("| run | models in memory | peak memory | of DPO's | seconds of a round | drawing, scoring, updating |")
    print("|---|---|---|---|---|---|")
    least = results["dpo"]["peak_mib"]
    for turn, one in results.items():
        parts = ", ".join(f"{value:.1f}" for value in one["parts"]) if any(one["parts"]) else ""
        memory = f"{one['peak_mib']:.0f} MiB | {one['peak_mib'] / least:.2f}"
        print(f"| {turn} | {one['models']} | {memory} | {one['seconds']:.1f} | {parts} |")


def prepare(folder: Path, size: str) -> None:
    """A random model, prompts, pairs, and a reward."""
    make_model(folder / "model", size)
    rng = np.random.default_rng(0)

    def text(length: int) -> str:
        return " ".join(f"w{number}" for number in rng.integers(0, 15_000, length))

    prompts = [text(60) for _ in range(8)]
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
    rows = [{"prompt": prompt + " ", "chosen": text(31), "rejected": text(31)} for prompt in prompts for _ in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rule.py").write_text("def words(prompt, response):\n    return len(set(response.split())) / 10\n")


def take_turn(turn: str, folder: Path) -> dict[str, Any]:
    import torch

    from preftree.config.dpo import DpoConfig
    from preftree.config.load import check_config
    from preftree.config.online import PpoConfig, RlooConfig
    from preftree.config.reward import RewardConfig
    from preftree.train.dpo import run_dpo
    from preftree.train.ppo import run_ppo, run_rloo
    from preftree.train.reward import run_reward

    torch.set_num_threads(1)
    libraries = peak_mib()
    out = folder / turn.replace(" ", "-")
    shared = {"model": str(folder / "model"), "out": str(out), "cache": str(folder / "cache"), "threads": 1}
    shared |= {"micro_batch_tokens": 512, "save_every": None, "max_steps": ROUNDS}
    on_pairs = {"data": str(folder / "pairs.jsonl"), "batch_size": 16}
    sampled = {"data": str(folder / "prompts.txt"), "batch_size": 32, "minibatch_size": 16, "samples_per_prompt": 4}
    sampled |= {"max_new_tokens": 32, "ppo_epochs": 2, "reward": f"{folder / 'rule.py'}:words"}
    if turn == "dpo":
        run_dpo(check_config(DpoConfig, shared | on_pairs))
    elif turn == "rloo":
        run_rloo(check_config(RlooConfig, shared | sampled))
    else:
        if turn.endswith("reward model"):
            place = folder / "reward"
            if not place.exists():  # in a process of its own, whose memory is not counted
                config = check_config(RewardConfig, shared | on_pairs | {"out": str(place), "max_steps": 1})
                context = torch.multiprocessing.get_context("spawn")
                process = context.Process(target=run_reward, args=(config,))
                process.start()
                process.join()
            sampled["reward"] = f"rm:{place}"
        own = {"critic": "shared"} if "shared" in turn else {}
        run_ppo(check_config(PpoConfig, shared | sampled | own))
    summary = json.loads((out / "summary.json").read_bytes())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][-ROUNDS:]
    seconds = [rows[0]["seconds"], *(b["seconds"] - a["seconds"] for a, b in itertools.pairwise(rows))]
    parts = [rows[-1].get(f"seconds_{part}", 0.0) for part in ("generating", "scoring", "updating")]
    return {
        "peak_mib": summary["peak_memory_bytes"] / 2**20 - libraries,
        "models": summary.get("models_in_memory", 1) + turn.endswith("reward model"),
        "seconds": seconds[-1],
        "parts": parts,
    }


if __name__ == "__main__":
    main()

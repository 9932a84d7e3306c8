"""What a judge of known accuracy is worth as a source of labels: exact rewards after DPO on its verdicts.

    PYTHONPATH=tests python benchmarks/judge.py --out runs/judge [--seeds 3]

In the world `small` a scripted judge knows the reward, errs, and leans to the left and to the longer answer. It sees
every pair in both orders. Arms are compared at equal KL, on a line over several betas: its verdicts as they are
written; with the `win_prob` that its agreement with itself implies; as many clean labels as have the same information;
and clean labels on all pairs. Prints a line an arm.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from preftree.evaluate.answers import Answers
from preftree.evaluate.winrate import Pair, count_wins, judge_pairs
from preftree.judges.pairwise import Judge
from preftree.records import Comparison, Verdict
from preftree.stats.intervals import wilson
from preftree.worlds.grammar import World, reward
from preftree.worlds.sentiment import WORLDS
from support.datafiles import write_rows
from support.world_labels import Row, drawn_pairs, fine_tuned, labelled, reward_of

ACCURACY = 0.8
NATS = 2.0
"""KL at which arms are compared: labels that are less certain ask for less of it at one beta."""

BETAS_OF_VERDICTS = (1.0, 0.5, 0.35, 0.25)
BETAS_OF_CLEAN_LABELS = (3.0, 2.0, 1.0)
"""Values on both sides of that KL."""

LEFT = 0.4
LONGER = 0.4
"""Log-odds that the judge adds for the left answer, and for the longer one."""


class ScriptedJudge:
    """A judge in a world, right with a given probability on average over pairs and both orders."""

    def __init__(self, world: World, pairs: Sequence[Row], seed: int) -> None:
        self._world, self._chance = world, np.random.default_rng(seed)
        lengths = [len(row["chosen"]) - len(row["rejected"]) for row in pairs]
        self._spread = float(np.std(lengths)) or 1.0
        better = np.array([self._sign(row["prompt"], row["chosen"], row["rejected"]) for row in pairs])
        longer = np.tanh(np.array(lengths) / self._spread) * better

        def excess(skill: float) -> float:
            right = [expit(skill + LONGER * longer + side * LEFT).mean() for side in (1, -1)]
            return float(np.mean(right)) - ACCURACY

        self._skill = float(brentq(excess, 0.0, 20.0))  # pyright: ignore[reportArgumentType]

    def decide(self, asked: Sequence[Comparison]) -> list[Verdict]:
        """One verdict a comparison, drawn anew."""
        return [Verdict("left" if self._chance.random() < self._left(one) else "right") for one in asked]

    def _left(self, one: Comparison) -> float:
        better = self._sign(str(one.prompt), one.left, one.right)
        longer = math.tanh((len(one.left) - len(one.right)) / self._spread)
        return float(expit(self._skill * better + LONGER * longer + LEFT))

    def _sign(self, prompt: str, first: str, second: str) -> int:
        return 1 if reward(self._world, prompt, first) > reward(self._world, prompt, second) else -1


def entropy(chance: float) -> float:
    """Bits of a coin."""
    return -sum(p * math.log2(p) for p in (chance, 1 - chance) if p > 0)


def implied_accuracy(agreement: float) -> float:
    """Accuracy of independent verdicts that agree with each other so often: q^2 + (1 - q)^2 = agreement."""
    return (1 + math.sqrt(max(0.0, 2 * agreement - 1))) / 2


def label_arms(pairs: Sequence[Row], judged: Sequence[Pair], world: World, agreement: float) -> dict[str, list[Row]]:
    """Rows of each arm."""
    accuracy = implied_accuracy(agreement)
    both = accuracy**2 / agreement
    shares = [pair.value for pair in judged]
    right = [
        float(reward(world, row["prompt"], row["chosen"]) > reward(world, row["prompt"], row["rejected"]))
        for row in pairs
    ]
    known = round(len(pairs) * agreement * (1 - entropy(ACCURACY**2 / (ACCURACY**2 + (1 - ACCURACY) ** 2))))
    return {
        "verdicts as written": [labelled(row, share, 1) for row, share in zip(pairs, shares, strict=True)],
        "verdicts with win_prob": [
            labelled(row, 0.5 + (share - 0.5) * (2 * both - 1), 1) for row, share in zip(pairs, shares, strict=True)
        ],
        "clean, equal information": [labelled(row, share, 1) for row, share in zip(pairs[:known], right, strict=False)],
        "clean, all pairs": [labelled(row, share, 1) for row, share in zip(pairs, right, strict=True)],
    }


def at_equal_kl(points: Sequence[tuple[float, float]]) -> float | None:
    """Reward at `NATS`, on the line between the neighbouring points; None where none is beyond, or none before."""
    kls, rewards = zip(*sorted(points), strict=True)
    return float(np.interp(NATS, kls, rewards)) if kls[0] <= NATS <= kls[-1] else None


def run_seed(home: Path, seed: int, sizes: dict[str, int]) -> dict[str, Any]:
    """Figures of one seed."""
    home.mkdir(parents=True, exist_ok=True)
    world = WORLDS["small"]
    start = fine_tuned(home, world, seed, sizes["texts"], sizes["sft_steps"])
    pairs = drawn_pairs(start, world, sizes["pairs"], seed)
    judge = Judge("scripted", ScriptedJudge(world, pairs, seed).decide)
    sides = [Answers(name, tuple((row[name],) for row in pairs)) for name in ("chosen", "rejected")]
    judged = judge_pairs(judge, [row["prompt"] for row in pairs], sides[0], sides[1])
    counted = count_wins(judge, sides[0], sides[1], judged)
    assert counted.agreement is not None
    rights = [
        (verdict.choice == "left")
        == (reward(world, row["prompt"], row["chosen"]) > reward(world, row["prompt"], row["rejected"]))
        for row, pair in zip(pairs, judged, strict=True)
        for verdict in pair.verdicts
    ]
    figures: dict[str, Any] = {
        "seed": seed,
        "accuracy": wilson(sum(rights), len(rights)),
        "implied_accuracy": implied_accuracy(counted.agreement),
        "left_rate": counted.left_rate,
    }
    for name, rows in label_arms(pairs, judged, world, counted.agreement).items():
        path = write_rows(home / f"{name.replace(' ', '-')}.jsonl", rows)
        points = []
        for beta in BETAS_OF_CLEAN_LABELS if name.startswith("clean") else BETAS_OF_VERDICTS:
            out = f"run-{name.replace(' ', '-')}-{beta:g}"
            found = reward_of(home, world, start, path, out, seed, beta=beta, steps=sizes["steps"])
            points.append((found["kl"], found["reward"]))
        figures[name] = {"rows": len(rows), "reward": at_equal_kl(points), "kl_and_reward_by_beta": points}
        print(json.dumps({"seed": seed, "arm": name, **figures[name]}), flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a judge's verdicts are worth as labels.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=800)
    given = parser.parse_args()
    sizes = {"pairs": given.pairs, "texts": 8000, "sft_steps": 300, "steps": 150}
    results = []
    for seed in range(given.seeds):
        path = given.out / f"seed{seed}.json"
        if not path.is_file():
            found = run_seed(given.out / str(seed), seed, sizes)
            path.write_text(json.dumps(found, indent=1))
        results.append(json.loads(path.read_text()))
    gaps = [one["clean, equal information"]["reward"] - one["verdicts with win_prob"]["reward"] for one in results]
    print(json.dumps({"clean at equal information, less verdicts with win_prob": gaps, "mean": float(np.mean(gaps))}))


if __name__ == "__main__":
    main()

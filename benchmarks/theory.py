"""DPO and RLHF where both can be worked out: what each needs of pairs, and what a policy too small to be right does.

    python benchmarks/theory.py

Prints the tables of docs/theory.md; about two minutes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from small_problem import (
    best_in_class,
    direct_policy,
    drawn_counts,
    expected_counts,
    fit_rewards,
    objective,
    optimal_policy,
    random_problem,
)

RESPONSES, RANK, SEEDS = 64, 4, range(20)
PAIRS = (25, 50, 100, 200, 400, 800, 1600, 6400, 25600)
SIZES = (1, 2, 4, 8, 16, 32, 63)


def main() -> None:
    print(
        f"{RESPONSES} responses, rewards of {RANK} features, {len(SEEDS)} problems; regret, mean and standard error\n"
    )
    print("| pairs | RLHF: reward model of the true features | DPO: a free policy |")
    print("|---|---|---|")
    for num in PAIRS:
        small, free = zip(*(by_pairs(seed, num) for seed in SEEDS), strict=True)
        print(f"| {num:,} | {told(small)} | {told(free)} |")
    print("\n| features of the policy | RLHF | DPO | difference |")
    print("|---|---|---|---|")
    for size in SIZES:
        rlhf, dpo = zip(*(by_size(seed, size) for seed in SEEDS), strict=True)
        gaps = [one - other for one, other in zip(dpo, rlhf, strict=True)]
        print(f"| {size} | {told(rlhf)} | {told(dpo)} | {told(gaps)} |")


def by_pairs(seed: int, num: int) -> tuple[float, float]:
    """Regret after so many drawn pairs: of RLHF with a small reward model, and of DPO with a free policy."""
    problem, features = random_problem(seed, num=RESPONSES, rank=RANK)
    counts, free = drawn_counts(problem, num, seed), np.eye(RESPONSES)
    best = objective(problem, optimal_policy(problem, problem.rewards))
    prior = 1 / RANK  # of a free reward, whose variance is that of RANK standard normal products
    policies = (
        optimal_policy(problem, fit_rewards(counts, features, prior=1.0)),
        direct_policy(problem, counts, free, prior=prior),
    )
    rlhf, dpo = (best - objective(problem, logps) for logps in policies)
    return rlhf, dpo


def by_size(seed: int, size: int) -> tuple[float, float]:
    """Regret of a policy of so many features with endless pairs: RLHF with a perfect reward model, and DPO.

    The features are random and know nothing of the reward's own.
    """
    problem, _ = random_problem(seed, num=RESPONSES, rank=RANK)
    own = np.random.default_rng(1000 + seed).normal(size=(RESPONSES, size))
    best = objective(problem, optimal_policy(problem, problem.rewards))
    rlhf = best_in_class(problem, problem.rewards, own)
    dpo = direct_policy(problem, expected_counts(problem), own)
    return best - objective(problem, rlhf), best - objective(problem, dpo)


def told(values: Sequence[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{round(statistics.fmean(values), 4) + 0.0:.4f} ± {error:.4f}"


if __name__ == "__main__":
    main()

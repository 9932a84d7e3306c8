"""Simulated battles: models of known strength, prompts that favour some of them, voters, and riggers."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from preftree.evaluate.judging.battles import Battles

STRENGTH = np.linspace(-1, 1, 8)
"""Strengths of the models m0 to m7, in log-odds."""

RIGGED = 3
"""The model that riggers vote for."""


def simulate_battles(
    seed: int,
    *,
    count: int = 5000,
    rigged: int = 0,
    riggers: int = 1,
    prompts: int = 500,
    voters: int = 100,
    taste: float = 0.6,
) -> Battles:
    """Battles, a tenth of them ties; each prompt favours models by `taste`. Rigged ones are all won by one model."""
    rng = np.random.default_rng(seed)
    num = len(STRENGTH)
    first = rng.integers(0, num, count)
    second = (first + rng.integers(1, num, count)) % num
    prompt = rng.integers(0, prompts, count)
    leaning = taste * rng.normal(size=(prompts, num))
    apart = STRENGTH[first] - STRENGTH[second] + leaning[prompt, first] - leaning[prompt, second]
    value = (rng.random(count) < expit(apart)).astype(float)
    value[rng.random(count) < 0.1] = 0.5
    voter = rng.integers(0, voters, count)
    others = (RIGGED + rng.integers(1, num, rigged)) % num
    return Battles(
        models=tuple(f"m{number}" for number in range(num)),
        voters=tuple(f"v{number:03d}" for number in range(voters + (riggers if rigged else 0))),
        first=np.concatenate([first, np.full(rigged, RIGGED)]),
        second=np.concatenate([second, others]),
        value=np.concatenate([value, np.ones(rigged)]),
        weight=np.ones(count + rigged),
        prompt=np.concatenate([prompt, rng.integers(0, prompts, rigged)]),
        voter=np.concatenate([voter, voters + np.arange(rigged) % riggers]),
        left_out={},
    )

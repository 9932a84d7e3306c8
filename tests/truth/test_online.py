"""PPO, RLOO, GRPO and its relatives in the tiny world: the objective of the closed form, reference x exp(r / c) / Z."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preftree.config.load import load_config
from preftree.config.online import PpoConfig, RlooConfig
from preftree.losses.rl.methods import METHODS
from preftree.models.load import load_model
from preftree.models.write_folder import save_model
from preftree.train.ppo import run_ppo, run_rloo
from preftree.worlds.exact import Table, kl_and_reward, optimum
from preftree.worlds.grammar import reward_table
from preftree.worlds.sentiment import WORLDS, build_model, build_tokenizer
from preftree.worlds.walk import outcome_logps

TINY, COEFFICIENT, SAMPLES = WORLDS["tiny"], 0.2, 8
IN_DEVIATIONS = 1.4
"""About .6 in units of the reward. Near 1 and below there is no balance: deviation and penalty fall to 0 together."""
DIVIDES = {"grpo", "dapo", "gspo", "cispo"}
"""Methods that divide advantages by the deviation of a prompt's rewards: their kl_coef counts in deviations."""


def settle(start: Table, rewards: Table, kl_coef: float, method: str) -> tuple[Table, np.ndarray]:
    """The closed form and the coefficient of each prompt, in units of the reward, under which it is the best policy.

    A mean over all K responses makes advantages smaller by (K - 1) / K than the penalty beside them. A deviation is
    that of the rewards under the policy that results, so coefficient and policy are found together.
    """
    coefficients = np.full(len(start), kl_coef * (1 if METHODS[method].kl_in == "reward" else SAMPLES / (SAMPLES - 1)))
    if method not in DIVIDES:
        return np.concatenate([optimum(start[x : x + 1], rewards[x : x + 1], 1 / c) for x, c in _each(coefficients)]), (
            coefficients
        )
    deviations = np.full(len(start), 0.3)
    for _ in range(200):
        each = _each(coefficients * deviations)
        best = np.concatenate([optimum(start[x : x + 1], rewards[x : x + 1], 1 / c) for x, c in each])
        mean = (np.exp(best) * rewards).sum(1, keepdims=True)
        deviations = (deviations + np.sqrt((np.exp(best) * (rewards - mean) ** 2).sum(1))) / 2
    return best, coefficients * deviations


def _each(coefficients: np.ndarray) -> list[tuple[int, float]]:
    return list(enumerate(coefficients.tolist()))


def objective(logps: Table, start: Table, rewards: Table, coefficients: np.ndarray) -> float:
    """Reward minus KL times the coefficient, the mean over prompts."""
    points = [kl_and_reward(logps[x : x + 1], start[x : x + 1], rewards[x : x + 1]) for x in range(len(start))]
    return float(np.mean([point.reward - c * point.kl for point, c in zip(points, coefficients, strict=True)]))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_reaches_the_objective_of_the_closed_form(tmp_path: Path, method: str) -> None:
    """From a model that knows nothing, within .03 of the best value of what it maximises, most of the way from 0."""
    tokenizer = build_tokenizer()
    save_model(build_model(tokenizer, 0), tokenizer, tmp_path / "model", card="# An untrained model\n")
    (tmp_path / "prompts.txt").write_text("\n".join(TINY.prompts))
    words = {
        "model": tmp_path / "model",
        "data": tmp_path / "prompts.txt",
        "reward": "world:tiny",
        "out": tmp_path / "run",
        "cache": tmp_path / "cache",
        "kl_coef": IN_DEVIATIONS if method in DIVIDES else COEFFICIENT,
        "batch_size": 192,
        "samples_per_prompt": SAMPLES,
        "max_new_tokens": TINY.max_words,
        "generation_batch": 192,
        "ppo_epochs": 4,
        "max_steps": 60,
        "lr": "2e-3",
        "schedule": "cosine",
        "threads": 1,
    }
    if method == "gspo":
        words |= {"clip": 0.2, "clip_high": 0.2}  # its own ranges leave 240 updates nowhere to go
    told = [f"{name}={value}" for name, value in words.items()]
    if method == "ppo":
        run_ppo(load_config(PpoConfig, told))
    else:
        run_rloo(load_config(RlooConfig, [*told, f"method={method}"]))
    table = reward_table(TINY)
    start = outcome_logps(load_model(tmp_path / "model"), tokenizer, TINY)
    end = outcome_logps(load_model(tmp_path / "run" / "model"), tokenizer, TINY)
    best, coefficients = settle(start, table, float(words["kl_coef"]), method)
    values = [objective(logps, start, table, coefficients) for logps in (start, end, best)]
    print(f"{method}: from {values[0]:.3f} to {values[1]:.3f}, best {values[2]:.3f}; coefficients {coefficients}")
    assert values[2] - values[1] < 0.03, values
    assert values[1] - values[0] > 0.8 * (values[2] - values[0]), values
    assert np.isfinite(end[:, :-1]).all()

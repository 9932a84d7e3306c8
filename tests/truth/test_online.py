"""PPO and RLOO in the tiny world, at a fixed KL coefficient: how far from reference x exp(reward / coefficient) / Z."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preftree.config.load import load_config
from preftree.config.online import PpoConfig, RlooConfig
from preftree.models.load import load_model
from preftree.models.write_folder import save_model
from preftree.train.ppo import run_ppo, run_rloo
from preftree.worlds.exact import kl_and_reward, optimum
from preftree.worlds.grammar import reward_table
from preftree.worlds.sentiment import WORLDS, build_model, build_tokenizer
from preftree.worlds.walk import outcome_logps

TINY, KL_COEF = WORLDS["tiny"], 0.2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ppo", "rloo"])
def test_a_fixed_coefficient_leads_to_the_closed_form(tmp_path: Path, kind: str) -> None:
    """From a model that knows nothing, KL(policy || optimum) falls below a tenth of what it was, and below .15 nats."""
    tokenizer = build_tokenizer()
    save_model(build_model(tokenizer, 0), tokenizer, tmp_path / "model", card="# An untrained model\n")
    (tmp_path / "prompts.txt").write_text("\n".join(TINY.prompts))
    words = {
        "model": tmp_path / "model",
        "data": tmp_path / "prompts.txt",
        "reward": "world:tiny",
        "out": tmp_path / "run",
        "cache": tmp_path / "cache",
        "kl_coef": KL_COEF,
        "batch_size": 192,
        "samples_per_prompt": 8,
        "max_new_tokens": TINY.max_words,
        "generation_batch": 192,
        "ppo_epochs": 4,
        "max_steps": 60,
        "lr": "2e-3",
        "schedule": "cosine",
        "threads": 1,
    }
    told = [f"{name}={value}" for name, value in words.items()]
    if kind == "ppo":
        run_ppo(load_config(PpoConfig, told))
    else:
        run_rloo(load_config(RlooConfig, told))
    table = reward_table(TINY)
    start = outcome_logps(load_model(tmp_path / "model"), tokenizer, TINY)
    end = outcome_logps(load_model(tmp_path / "run" / "model"), tokenizer, TINY)
    best = optimum(start, table, 1 / KL_COEF)
    before, after = kl_and_reward(start, best, table).kl, kl_and_reward(end, best, table).kl
    assert after < min(0.15, before / 10), f"{before:.3f} -> {after:.3f}"
    # What was maximised falls short of its best by just that distance times the coefficient.
    objective = [kl_and_reward(logps, start, table) for logps in (end, best)]
    gap = (objective[1].reward - KL_COEF * objective[1].kl) - (objective[0].reward - KL_COEF * objective[0].kl)
    assert gap == pytest.approx(KL_COEF * after, abs=1e-9)
    assert np.isfinite(end[:, :-1]).all()

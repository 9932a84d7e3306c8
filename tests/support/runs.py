"""Runs that never were: rows in the form of metrics.jsonl with a course that the test chooses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from preftree.run_folder.measured_file import Measured
from preftree.run_folder.reader import Run

Row = dict[str, Any]


def dpo_rows(
    steps: int = 200,
    *,
    seed: int = 0,
    beta: float = 0.1,
    chosen: Callable[[float], float] = lambda t: 3 * t,
    rejected: Callable[[float], float] = lambda t: -8 * t,
    spread: float = 1.0,
    per_token: float = 0.0,
    eval_every: int = 50,
    held_out: Callable[[float], Mapping[str, float]] = lambda t: {},
) -> list[Row]:
    """Rows of a DPO run whose mean logratios follow `chosen` and `rejected`, functions of time in [0, 1].

    Args:
      steps: Training rows.
      seed: Of the noise.
      beta: Turns logratios into margins.
      chosen, rejected: Mean logratio in nats.
      spread: Standard deviation of a pair's margin, which decides accuracy and loss.
      per_token: Margin that a token of difference in length adds.
      eval_every: Steps between evaluation rows.
      held_out: Figures that replace those of an evaluation at time t.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for step in range(1, steps + 1):
        t = (step - 1) / steps
        rows.append(_row(step, t, rng, beta, chosen(t), rejected(t), spread, per_token, 64) | _clock(step, rng))
        if step % eval_every == 0 or step == steps:
            t = step / steps
            row = _row(step, t, np.random.default_rng(1), beta, chosen(t), rejected(t), spread, 0.0, 1024)
            row |= held_out(t)
            widths = {"loss": 0.02 * abs(row["loss"]), "chosen_logratio": 0.2, "rejected_logratio": 0.2}
            widths["accuracy"] = 1.96 * math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / 1024)
            for name, half in widths.items():
                row = {f"{name}_low": row[name] - half, f"{name}_high": row[name] + half} | row
            rows.append({"split": "eval", **row})
    return rows


def _row(
    step: int,
    t: float,
    rng: np.random.Generator,
    beta: float,
    chosen: float,
    rejected: float,
    spread: float,
    per_token: float,
    pairs: int,
) -> Row:
    """Means over `pairs` pairs drawn around the given logratios."""
    lengths = rng.normal([60.0, 55.0], 20.0, (pairs, 2)).clip(4)
    grown = per_token * (lengths[:, 0] - lengths[:, 1]) * t
    margin = beta * (chosen - rejected) + rng.normal(0, spread, pairs) * math.sqrt(t) + grown
    ref = -1.9 * lengths.mean(axis=0)
    return {
        "step": step,
        "epoch": t,
        "loss": float(np.logaddexp(0, -margin).mean()),
        "accuracy": float(((1 + np.sign(margin)) / 2).mean()),
        "margin": float(margin.mean()),
        "chosen_rewards": beta * chosen,
        "rejected_rewards": beta * rejected,
        "chosen_logps": float(ref[0]) + chosen,
        "rejected_logps": float(ref[1]) + rejected,
        "chosen_logratio": chosen,
        "rejected_logratio": rejected,
        "grad_weight": float((1 / (1 + np.exp(margin))).mean()),
        "chosen_tokens": float(lengths[:, 0].mean()),
        "rejected_tokens": float(lengths[:, 1].mean()),
    }


def _clock(step: int, rng: np.random.Generator) -> Row:
    return {
        "grad_norm": float(2.5 * math.exp(-step / 80) * rng.lognormal(0, 0.25) + 0.4),
        "lr": 1e-6 * min(1.0, step / 20),
        "pairs": 64 * step,
        "tokens": 9000 * step,
        "pairs_per_second": float(rng.normal(31, 2)),
        "seconds": 2.1 * step,
    }


def write_run(folder: Path, rows: list[Row], *, measured: Mapping[str, Any] | None = None, **options: Any) -> Path:
    """A finished run's folder with these rows; `options` replace or join those of its config.yaml."""
    folder.mkdir(parents=True)
    config = {
        "model": "models/sft",
        "data": {"path": "prefs.jsonl", "format": None, "order": "prompt", "max_rejected": 0.05},
        "eval_data": 0.1,
        "out": str(folder.name),
        "loss": {"name": "dpo"},
        "beta": 0.1,
        "reference": "start",
        "lr": 1e-6,
        "optimizer": "rmsprop",
        "weight_decay": 0.0,
        "max_grad_norm": 10.0,
        "schedule": "constant",
        "batch_size": 64,
        "seed": 0,
        "precision": "fp32",
    } | options
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = max(row["step"] for row in rows)
    trajectory = {"recipe": "dpo", "weights of the model": "7f3a" * 16, "training data": "c21e" * 16, "seed": 0}
    summary = {
        "recipe": "dpo",
        "steps": steps,
        "examples": 64 * steps,
        "training_seconds": 2.1 * steps,
        "peak_memory_bytes": 1_900_000_000,
        "trajectory": trajectory,
        "environment": {"torch": "2.13.0", "device": "cpu (AVX2)"},
        "config": config,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(b"\0" * 4096)
    if measured is not None:
        (folder / "measured.json").write_text(json.dumps(measured))
    return folder


def run_of(
    rows: list[Row],
    *,
    recipe: str = "dpo",
    loss: str = "dpo",
    starts_at_reference: bool = True,
    measured: Measured | None = None,
    config: Mapping[str, Any] | None = None,
) -> Run:
    """A run with these rows, which has no folder; `config` replaces the options that name the loss alone."""
    options = {"loss": loss, "reference": "start" if starts_at_reference else "other"} if config is None else config
    return Run(Path("run"), "run", {"recipe": recipe, **options}, tuple(rows), {}, (), {}, measured or Measured(), ())

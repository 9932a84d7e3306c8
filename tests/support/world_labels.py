"""Models of a world that are trained on labels of many kinds, and their exact figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config
from preftree.config.sft import SftConfig
from preftree.data.rows.conversion import to_row
from preftree.evaluate.frontier import world_meter
from preftree.generate.hf import Sampling, generate
from preftree.models.load import load_model, load_tokenizer
from preftree.models.write_folder import save_model
from preftree.train.dpo import run_dpo
from preftree.train.sft import run_sft
from preftree.worlds.grammar import World, draw_corpus, reward
from preftree.worlds.sentiment import SPECIAL, build_model, build_tokenizer, weigh_repeats
from preftree.worlds.walk import walk_outcomes
from support.datafiles import write_rows

Row = dict[str, Any]


def options(home: Path, world: World, data: Path, out: Path, seed: int) -> dict[str, Any]:
    return {
        "data": {"path": str(data), "order": "example"},
        "out": str(out),
        "cache": str(home / "cache"),
        "max_response_length": world.max_words,
        "truncation": "trim_response",
        "warmup_steps": 10,
        "schedule": "cosine",
        "optimizer": "adamw",
        "threads": 1,
        "seed": seed,
    }


def fine_tuned(home: Path, world: World, seed: int, texts: int, steps: int) -> Path:
    """A model that writes as the world's corpus does."""
    tokenizer = build_tokenizer()
    save_model(build_model(tokenizer, seed), tokenizer, home / "model", card="# An untrained model\n")
    rows = [to_row(record) for record in weigh_repeats(draw_corpus(world, texts, seed))]
    write_rows(home / "corpus.jsonl", rows)
    more = {"model": str(home / "model"), "lr": 1e-2, "batch_size": 64, "max_steps": steps}
    run_sft(check_config(SftConfig, options(home, world, home / "corpus.jsonl", home / "sft", seed) | more))
    return home / "sft" / "model"


def drawn_pairs(model: Path, world: World, number: int, seed: int) -> list[Row]:
    """Different pairs of samples with different rewards, in an order that says nothing."""
    tokenizer, generator = load_tokenizer(model), np.random.default_rng(seed)
    prompts = [world.prompts[index % len(world.prompts)] for index in range(3 * number)]
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts for _ in range(2)]
    drawn = generate(load_model(model), tokenizer, ids, Sampling(world.max_words, seed=seed), batch_size=512)
    found: dict[tuple[str, ...], Row] = {}
    for index, prompt in enumerate(prompts):
        two = [one.text for one in drawn[2 * index : 2 * index + 2]]
        usable = all(text and not set(text.split()) & set(SPECIAL) for text in two)
        if usable and reward(world, prompt, two[0]) != reward(world, prompt, two[1]):
            first, second = two if generator.random() < 0.5 else two[::-1]
            found.setdefault((prompt, *sorted(two)), {"prompt": prompt, "chosen": first, "rejected": second})
    assert len(found) >= number, (len(found), number)
    return list(found.values())[:number]


def labelled(row: Row, share: float, labels: int) -> Row:
    texts = (row["chosen"], row["rejected"])
    chosen, rejected = texts if share >= 0.5 else texts[::-1]
    return {
        "prompt": row["prompt"],
        "chosen": chosen,
        "rejected": rejected,
        "tie": share == 0.5,
        "win_prob": max(share, 1 - share),
        "weight": labels,
    }


def reward_of(
    home: Path, world: World, start: Path, data: Path, name: str, seed: int, *, beta: float, steps: int
) -> dict[str, float]:
    """Exact figures of `preftree dpo loss.name=dpo_soft` on a file."""
    more = {"model": str(start), "lr": 3e-3, "batch_size": 32, "max_steps": steps}
    more |= {"loss": {"name": "dpo_soft"}, "beta": beta}
    run_dpo(check_config(DpoConfig, options(home, world, data, home / name, seed) | more))
    tokenizer = load_tokenizer(start)
    meter = world_meter(world, tokenizer, walk_outcomes(load_model(start), tokenizer, world))
    return dict(meter(load_model(home / name / "model")))

"""The demo's stages: corpus -> SFT -> sampled, labelled pairs -> DPO -> exact figures; all of them through files."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.cli.demo_plan import HELD_OUT_PROMPTS, LABELLER, RESPONSES_PER_PROMPT, SEEDS, Plan, Run
from preftree.cli.demo_trace import FIRST_STEP, trace_run
from preftree.config.load import check_config
from preftree.config.schema import DpoConfig, SftConfig
from preftree.data.kinds import to_row
from preftree.errors import ConfigError
from preftree.generate.hf import Generation, Sampling, generate
from preftree.models.export import save_model
from preftree.models.load import load_model, load_tokenizer
from preftree.records import Preference, Record
from preftree.storage.atomic import make_folder, write_atomic
from preftree.train.dpo import run_dpo
from preftree.train.sft import run_sft
from preftree.worlds.bandit import check_bandit
from preftree.worlds.exact import best_of, frontier, measure
from preftree.worlds.grammar import World, draw_corpus, reward, rewards
from preftree.worlds.sentiment import WORLDS, build_model, build_tokenizer, label_samples, weigh_repeats
from preftree.worlds.walk import outcome_logps


def run_demo(out: Path, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Run all stages below `out`, or what is left of them, and return what results.json holds.

    Raises:
      ConfigError: `out` holds a demo of another plan.
    """
    _claim(out, plan)
    torch.set_num_threads(1)  # the model is so small that threads would only wait for one another
    world = WORLDS[plan.world]
    reward_table = rewards(world)
    seconds: dict[str, float] = {}

    with _stage("sft", seconds):
        sft = _fine_tune(out, plan, world)
        tokenizer = load_tokenizer(sft)
        reference = load_model(sft)
    with _stage("exact figures", seconds):
        ref_logps = outcome_logps(reference, tokenizer, world)
    start = measure(ref_logps, ref_logps, reward_table).reward
    say(f"fine-tuned on {plan.texts} texts, mildly negative: true reward {start:.3f} of 1")

    with _stage("preferences", seconds):
        counts, held_out = _collect(out, plan, world, reference, tokenizer)
    say(f"{counts['pairs']} labelled pairs between its samples in {out / 'pairs.jsonl'}")

    methods: dict[str, list[dict[str, Any]]] = {}
    for run in plan.runs:
        with _stage("dpo", seconds):
            folder = _optimise(out, plan, world, sft, run)
        with _stage("exact figures", seconds):
            points = trace_run(folder, plan.dpo_steps, world, tokenizer, ref_logps, reward_table, held_out)
        points = [{"beta": run.beta, "seed": run.seed, **point} for point in points]
        methods.setdefault(f"dpo_{run.optimizer}", []).extend(points)
        end = points[-1]
        say(
            f"DPO, {run.optimizer}, beta {run.beta:g}: true reward {start:.3f} -> {end['reward']:.3f} "
            f"at KL {end['kl']:.2f}, where {end['best']:.3f} is the best possible"
        )
    methods["best_of_n"] = [
        {"n": n, **best_of(n, ref_logps, reward_table)._asdict()} for n in (2, 3, 4, 8, 16, 32, 64, 128)
    ]
    with _stage("bandit", seconds):
        bandit = check_bandit()
    worst = max(gap for row in bandit.values() for gap in row.values())
    say(f"bandit: every loss within {worst:.0e} of its closed-form optimum")
    with _stage("texts", seconds):
        policies = {"reference": sft, **{run.name: out / run.name / "model" for run in plan.runs if run.seed == 0}}
        texts = _texts(world, policies, tokenizer)
    betas = np.geomspace(0.001, 50, 81).tolist()
    edge = frontier(ref_logps, reward_table, [LABELLER.scale / beta for beta in betas])
    return {
        "world": _describe(world, plan) | counts | {"start_reward": start},
        "optimum": [{"beta": beta, **point._asdict()} for beta, point in zip(betas, edge, strict=True)],
        "methods": methods,
        "bandit": bandit,
        "texts": texts,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def _claim(out: Path, plan: Plan) -> None:
    """Make the folder, or see that it holds the same demo, whose finished parts then count as done."""
    make_folder(out)
    wanted = json.dumps({"plan": asdict(plan), "seeds": SEEDS}, indent=1) + "\n"
    path = out / "plan.json"
    if path.exists():
        if path.read_text(encoding="utf-8") != wanted:
            raise ConfigError(f"{out} holds a demo of another plan (see {path}); choose another --out")
    elif any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no demo; choose another --out")
    else:
        write_atomic(path, wanted)


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add up the time of a stage; the runs within it report warnings only, since the demo speaks for them."""
    log = logging.getLogger("preftree")
    level, began = log.level, time.perf_counter()
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began


def _options(out: Path, world: World, data: str, folder: str) -> dict[str, Any]:
    """What all runs of the demo have in common: with a cut at `max_words`, a response is what the world says it is."""
    return {
        "data": {"path": str(out / data), "order": "example"},
        "out": str(out / folder),
        "cache": str(out / "cache"),
        "max_response_length": world.max_words,
        "truncation": "trim_response",
        "warmup_steps": 20,
        "threads": 1,
    }


def _fine_tune(out: Path, plan: Plan, world: World) -> Path:
    """Write the corpus and an untrained model, and run SFT; returns the fine-tuned model's folder."""
    tokenizer = build_tokenizer()
    if not (out / "model").exists():
        card = "# An untrained model of the demo\n"
        save_model(build_model(tokenizer, SEEDS["model"]), tokenizer, out / "model", card=card)
    _write_rows(out / "corpus.jsonl", weigh_repeats(draw_corpus(world, plan.texts, SEEDS["corpus"])))
    options = {
        "model": str(out / "model"),
        "lr": 1e-2,
        "schedule": "cosine",
        "batch_size": 64,
        "max_steps": plan.sft_steps,
    }
    run_sft(check_config(SftConfig, _options(out, world, "corpus.jsonl", "sft") | options))
    return out / "sft" / "model"


def _collect(
    out: Path, plan: Plan, world: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, int], list[Preference]]:
    """Sample responses, label all pairs of a prompt, write pairs.jsonl and held_out.jsonl; counts, and the held-out."""
    parts = []
    for name, num, what in (("pairs", plan.prompts, ""), ("held_out", HELD_OUT_PROMPTS, "held-out ")):
        prompts = [world.prompts[index % len(world.prompts)] for index in range(num)]
        drawn = _sample(
            world, model, tokenizer, [p for p in prompts for _ in range(RESPONSES_PER_PROMPT)], f"{what}samples"
        )
        groups = [drawn[at : at + RESPONSES_PER_PROMPT] for at in range(0, len(drawn), RESPONSES_PER_PROMPT)]
        pairs = label_samples(world, list(zip(prompts, groups, strict=True)), LABELLER, SEEDS[f"{what}labels"])
        _write_rows(out / f"{name}.jsonl", pairs.preferences)
        parts.append(pairs)
    train, held_out = parts
    counts = {
        "pairs": len(train.preferences),
        "pairs_drawn": train.num_drawn,
        "equal_pairs_left_out": train.num_equal,
        "unusable_responses_left_out": train.num_unusable,
        "held_out_pairs": len(held_out.preferences),
    }
    return counts, held_out.preferences


def _sample(
    world: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], seed: str
) -> list[Generation]:
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    return generate(model, tokenizer, ids, Sampling(world.max_words, seed=SEEDS[seed]), batch_size=512)


def _optimise(out: Path, plan: Plan, world: World, sft: Path, run: Run) -> Path:
    """Run DPO with the checkpoints that `trace_run` reads; returns the run's folder."""
    options = {
        "model": str(sft),
        "beta": run.beta,
        "optimizer": run.optimizer,
        "lr": run.lr,
        "schedule": run.schedule,
        "seed": run.seed,
        "batch_size": 32,
        "max_steps": plan.dpo_steps,
        "eval_data": str(out / "held_out.jsonl"),
        "eval_every": math.ceil(plan.dpo_steps / 3),
        "save_every": FIRST_STEP,
        "keep_checkpoints": plan.dpo_steps,
    }
    run_dpo(check_config(DpoConfig, _options(out, world, "pairs.jsonl", run.name) | options))
    return out / run.name


def _texts(world: World, policies: dict[str, Path], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Three samples of each prompt and policy, drawn with the same random numbers."""
    prompts = [prompt for prompt in world.prompts for _ in range(3)]
    rows: list[dict[str, Any]] = [{"prompt": prompt, "responses": {}} for prompt in prompts]
    for name, folder in policies.items():
        for row, one in zip(rows, _sample(world, load_model(folder), tokenizer, prompts, "texts"), strict=True):
            row["responses"][name] = {"text": one.text, "reward": reward(world, row["prompt"], one.text)}
    return rows


def _describe(world: World, plan: Plan) -> dict[str, Any]:
    return {
        "name": world.name,
        "prompts": list(world.prompts),
        "words_per_response": world.max_words,
        "outcomes_per_prompt": world.num_outcomes,
        "labels": LABELLER.kind,
        "label_scale": LABELLER.scale,
        "plan": asdict(plan),
        "seeds": SEEDS,
    }


def _write_rows(path: Path, records: Sequence[Record]) -> None:
    """One JSON object a line."""
    write_atomic(path, "".join(json.dumps(to_row(record)) + "\n" for record in records))

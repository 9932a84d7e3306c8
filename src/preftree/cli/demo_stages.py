"""The demo's stages: corpus -> SFT -> sampled, labelled pairs -> training -> exact figures; all through files."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.cli.demo_plan import (
    BEST_OF,
    HELD_OUT_PROMPTS,
    LABELLER,
    RESPONSES_PER_PROMPT,
    TEMPERATURES,
    TEMPERED_BETA,
    Method,
    Plan,
)
from preftree.config.load import check_config
from preftree.config.schema import DpoConfig, SftConfig
from preftree.data.kinds import to_row
from preftree.errors import ConfigError, TrainingError
from preftree.evaluate.folder import Run, read_run
from preftree.evaluate.frontier import Meter, trace, world_meter
from preftree.evaluate.measured import Point, read_measured, write_measured
from preftree.generate.hf import Generation, Sampling, generate
from preftree.models.export import save_model
from preftree.models.load import load_model, load_tokenizer
from preftree.records import Preference, Record
from preftree.report.frontier import BUDGETS
from preftree.storage.atomic import make_folder, write_atomic
from preftree.train.dpo import run_dpo
from preftree.train.sft import run_sft
from preftree.train.sweep import Variant, run_all
from preftree.worlds.exact import Table, best_of, best_reward, frontier, measure, win_rate
from preftree.worlds.grammar import World, draw_corpus, reward, rewards
from preftree.worlds.sentiment import WORLDS, build_model, build_tokenizer, label_samples, weigh_repeats
from preftree.worlds.walk import outcome_logps

Say = Callable[[str], None]
V = TypeVar("V")

DRAWS = {"corpus": 0, "model": 0, "samples": 1, "labels": 2, "held-out samples": 3, "held-out labels": 4, "texts": 5}
"""Numbers of the demo's draws; seed k of the plan adds 10 k, so no two seeds share one."""

TEXTS = 3
"""Samples of each prompt and policy that are shown."""


def run_world(out: Path, plan: Plan, seed: int, say: Say) -> dict[str, Any]:
    """Run all stages of one seed below `out`, or what is left of them.

    Returns:
      The seed's part of results.json: `methods`, `optimum`, `budgets`, `texts`, `temperature`, `world`, `seconds`, and
      `runs`: for each run its varied options and what its folder says.
    Raises:
      UserError: a run failed.
      Stopped: a signal stopped one.
    """
    world = WORLDS[plan.world]
    table = rewards(world)
    seconds: dict[str, float] = {}

    with _stage("sft", seconds):
        sft = _fine_tune(out, plan, world, seed)
        tokenizer, reference = load_tokenizer(sft), load_model(sft)
    with _stage("exact figures", seconds):
        ref_logps = outcome_logps(reference, tokenizer, world)
    start = measure(ref_logps, ref_logps, table).reward
    say(f"fine-tuned on {plan.texts} texts, mildly negative: true reward {start:.3f} of 1")

    with _stage("preferences", seconds):
        counts, held_out = _collect(out, plan, world, reference, tokenizer, seed)
    say(f"{counts['pairs']} labelled pairs between its samples in {out / 'pairs.jsonl'}")

    meter = world_meter(world, tokenizer, ref_logps, held_out)
    points: dict[str, list[Point]] = {}
    runs: dict[str, tuple[Mapping[str, str], Run]] = {}
    for method in plan.methods:
        points[method.name] = []
        ended = _train(out, plan, world, sft, method, seed)
        while True:
            with _stage(method.name, seconds):
                variant = next(ended, None)
            if variant is None:
                break
            with _stage("exact figures", seconds):
                found = _measure(Path(variant.config.out), plan, meter, variant, seed)
            points[method.name] += found
            runs[variant.name] = (variant.values, read_run(Path(variant.config.out)))
            end = found[-1]
            say(
                f"{variant.name}: true reward {start:.3f} -> {end.reward:.3f} at KL {end.kl:.2f}, "
                f"where {(end.model_extra or {})['best']:.3f} is the best possible"
            )
    best = [{"n": n, "seed": seed, **best_of(n, ref_logps, table)._asdict()} for n in BEST_OF]
    points["best_of_n"] = [Point.model_validate(point) for point in best]
    tempered = {"fine-tuned": sft} | {
        name: out / name / "model"
        for name, (values, _) in runs.items()
        if values.get("beta", "1") == f"{TEMPERED_BETA:g}"
    }
    with _stage("temperatures", seconds):
        temperature = _win_rates(world, tempered, tokenizer, ref_logps, table)
    with _stage("texts", seconds):
        texts = _texts(world, {"reference": sft} | {name: out / name / "model" for name in runs}, tokenizer, seed)
    return {
        "world": counts | {"start_reward": start},
        "optimum": _optimum(ref_logps, table, seed),
        "methods": {name: [point.model_dump(exclude_none=True) for point in own] for name, own in points.items()},
        "budgets": [
            _within(name, own, budget, seed, start, ref_logps, table)
            for name, own in points.items()
            for budget in BUDGETS
        ],
        "texts": texts,
        "temperature": temperature,
        "seconds": seconds,
        "runs": runs,
    }


def claim(out: Path, plan: Plan) -> None:
    """Make the folder, or see that it holds the same demo, whose finished parts then count as done.

    Raises:
      ConfigError: `out` holds something else, or a demo of another plan.
    """
    make_folder(out)
    wanted = json.dumps({"plan": asdict(plan), "draws": DRAWS}, indent=1) + "\n"
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


def _options(out: Path, world: World, data: str, folder: str, seed: int) -> dict[str, Any]:
    """What all runs of the demo have in common: with a cut at `max_words`, a response is what the world says it is."""
    return {
        "data": {"path": str(out / data), "order": "example"},
        "out": str(out / folder),
        "cache": str(out / "cache"),
        "max_response_length": world.max_words,
        "truncation": "trim_response",
        "warmup_steps": 20,
        "threads": 1,
        "seed": seed,
    }


def _fine_tune(out: Path, plan: Plan, world: World, seed: int) -> Path:
    """Write the corpus and an untrained model, and run SFT; returns the fine-tuned model's folder."""
    tokenizer = build_tokenizer()
    if not (out / "model").exists():
        card = "# An untrained model of the demo\n"
        save_model(build_model(tokenizer, _draw("model", seed)), tokenizer, out / "model", card=card)
    _write_rows(out / "corpus.jsonl", weigh_repeats(draw_corpus(world, plan.texts, _draw("corpus", seed))))
    options = _options(out, world, "corpus.jsonl", "sft", seed) | {
        "model": str(out / "model"),
        "lr": 1e-2,
        "schedule": "cosine",
        "batch_size": 64,
        "max_steps": plan.sft_steps,
    }
    config = check_config(SftConfig, options)
    list(_sound(run_all([Variant("sft", {}, config)], run_sft)))
    return out / "sft" / "model"


def _collect(
    out: Path, plan: Plan, world: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[dict[str, int], list[Preference]]:
    """Sample responses, label all pairs of a prompt, write pairs.jsonl and held_out.jsonl; counts, and the held-out."""
    parts = []
    for name, num, what in (("pairs", plan.prompts, ""), ("held_out", HELD_OUT_PROMPTS, "held-out ")):
        prompts = [world.prompts[index % len(world.prompts)] for index in range(num)]
        rows = [prompt for prompt in prompts for _ in range(RESPONSES_PER_PROMPT)]
        drawn = _sample(world, model, tokenizer, rows, _draw(f"{what}samples", seed))
        groups = [drawn[at : at + RESPONSES_PER_PROMPT] for at in range(0, len(drawn), RESPONSES_PER_PROMPT)]
        samples = list(zip(prompts, groups, strict=True))
        pairs = label_samples(world, samples, LABELLER, _draw(f"{what}labels", seed))
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


def _train(
    out: Path, plan: Plan, world: World, sft: Path, method: Method, seed: int
) -> Iterator[Variant[DpoConfig] | Variant[SftConfig]]:
    """Train a method at each of its betas; each run as it ends.

    Raises:
      TrainingError: a run failed.
      Stopped: a signal stopped one.
    """
    shared = {
        "model": str(sft),
        "optimizer": method.optimizer,
        "lr": method.lr,
        "schedule": method.schedule,
        "batch_size": plan.batch_size,
        "max_steps": plan.steps,
        "snapshots": plan.snapshots,
    }
    called = method.name.replace("_", "-")
    if not method.betas:
        options = _options(out, world, "pairs.jsonl", called, seed) | shared | {"side": "chosen"}
        yield from _sound(run_all([Variant(called, {"method": called}, check_config(SftConfig, options))], run_sft))
        return
    variants = []
    for beta in method.betas:
        name = f"{called}-beta{beta:g}"
        own = {"beta": beta, "eval_data": str(out / "held_out.jsonl"), "eval_every": max(1, plan.steps // 3)}
        config = check_config(DpoConfig, _options(out, world, "pairs.jsonl", name, seed) | shared | own)
        variants.append(Variant(name, {"method": called, "beta": f"{beta:g}"}, config))
    yield from _sound(run_all(variants, run_dpo))


def _sound(ended: Iterable[tuple[V, str | None]]) -> Iterator[V]:
    """The runs that ended, all of which must have gone well."""
    for variant, error in ended:
        if error is not None:
            raise TrainingError(error)
        yield variant


def _measure(run: Path, plan: Plan, meter: Meter, variant: Variant[Any], seed: int) -> list[Point]:
    """The run's exact figures at its snapshots and its end, kept in its folder too."""
    before = read_measured(run / "measured.json")
    if before.frontier:
        return list(before.frontier)
    beta = float(variant.values["beta"]) if "beta" in variant.values else None
    found = trace(run, meter, beta=beta, seed=seed, first=plan.first)
    write_measured(run / "measured.json", before.model_copy(update={"frontier": tuple(found)}))
    return found


def _optimum(ref_logps: Table, table: Table, seed: int) -> list[dict[str, float]]:
    betas = np.geomspace(0.001, 50, 81).tolist()
    edge = frontier(ref_logps, table, [LABELLER.scale / beta for beta in betas])
    return [{"beta": beta, "seed": seed, **point._asdict()} for beta, point in zip(betas, edge, strict=True)]


def _within(
    name: str, points: Sequence[Point], budget: float, seed: int, start: float, ref_logps: Table, table: Table
) -> dict[str, Any]:
    """The best reward of a method at KL <= budget, its own start among the candidates, and the optimum there."""
    reached = max([start, *(point.reward for point in points if point.kl <= budget)])
    return {
        "method": name,
        "seed": seed,
        "kl": budget,
        "reward": reached,
        "optimum": best_reward(ref_logps, table, budget),
    }


def _win_rates(
    world: World, policies: Mapping[str, Path], tokenizer: PreTrainedTokenizerBase, ref_logps: Table, table: Table
) -> list[dict[str, Any]]:
    """How often each policy's sample, at each temperature, beats one of the fine-tuned model at 1; exact."""
    rows = []
    for name, folder in policies.items():
        model = load_model(folder)
        for temperature in TEMPERATURES:
            logps = outcome_logps(model, tokenizer, world, temperature=temperature)
            rows.append({"name": name, "temperature": temperature, "value": win_rate(logps, ref_logps, table)})
    return rows


def _sample(
    world: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], seed: int
) -> list[Generation]:
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    return generate(model, tokenizer, ids, Sampling(world.max_words, seed=seed), batch_size=512)


def _texts(
    world: World, policies: Mapping[str, Path], tokenizer: PreTrainedTokenizerBase, seed: int
) -> list[dict[str, Any]]:
    """Samples of each prompt and policy, drawn with the same random numbers."""
    prompts = [prompt for prompt in world.prompts for _ in range(TEXTS)]
    rows: list[dict[str, Any]] = [{"prompt": prompt, "responses": {}} for prompt in prompts]
    for name, folder in policies.items():
        drawn = _sample(world, load_model(folder), tokenizer, prompts, _draw("texts", seed))
        for row, one in zip(rows, drawn, strict=True):
            row["responses"][name] = {"text": one.text, "reward": reward(world, row["prompt"], one.text)}
    return rows


def _draw(what: str, seed: int) -> int:
    return DRAWS[what] + 10 * seed


def _write_rows(path: Path, records: Sequence[Record]) -> None:
    """One JSON object a line."""
    write_atomic(path, "".join(json.dumps(to_row(record)) + "\n" for record in records))

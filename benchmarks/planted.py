"""Small runs on a world with an exact reward: healthy ones, and ones with a failure planted. For diagnose.py."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config
from preftree.config.sft import SftConfig
from preftree.data.rows.conversion import to_row
from preftree.errors import TrainingError
from preftree.evaluate.frontier import world_meter
from preftree.generate.hf import Generation, Sampling, generate
from preftree.models.load import load_model, load_tokenizer
from preftree.models.write_folder import save_model
from preftree.records import Record
from preftree.run_folder.measured_file import Measured, Point
from preftree.storage.atomic import write_atomic
from preftree.storage.checkpoint import list_checkpoints, load_checkpoint, step_of
from preftree.train.dpo import run_dpo
from preftree.train.sft import run_sft
from preftree.worlds.grammar import World, draw_corpus
from preftree.worlds.sentiment import Labeller, build_model, build_tokenizer, label_samples, weigh_repeats
from preftree.worlds.walk import outcome_logps, walk_outcomes

RESPONSES = 4

_ADJECTIVES = ("good", "great", "fun", "bad", "dull", "awful")
PROMPTS = tuple(
    f"the {what} was{how}"
    for what, other in (("movie", "plot"), ("plot", "movie"))
    for how in ("", " very", " not", " not very", *(f" {word} the {other} was" for word in _ADJECTIVES))
)
"""Twenty prompts, since the intervals by which checks decide are over prompts."""

WORLD = World("varied", PROMPTS, min_words=1, max_words=3)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything; `seconds` is what a step cost on one quiet core."""

    texts: int
    sft_steps: int
    prompts: int
    held_out: int
    steps: int
    seconds: float


SIZES = {
    "varied": Size(4000, 150, 600, 150, 150, 0.045),
    "tiny": Size(2000, 100, 300, 100, 80, 0.035),
}


HONEST = Labeller("bt")


@dataclass(frozen=True, slots=True)
class Case:
    """A run, and which checks may name it.

    Attributes:
      name: Of its folder and its column.
      own: The checks of what was planted, any of which will do; empty for a healthy run.
      also: Checks that are right as well.
      labels: Who labelled the training pairs.
      held_out: Who labelled the held-out pairs.
      options: Of the run.
      times: Its steps over those of its size.
      share: Of the pairs.
      spoil: What is done to the folder afterwards.
    """

    name: str
    own: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    labels: Labeller = HONEST
    held_out: Labeller = HONEST
    options: dict[str, Any] = field(default_factory=dict)
    times: float = 1.0
    share: float = 1.0
    spoil: Callable[[Path], None] | None = None


def call_it_the_start(folder: Path) -> None:
    """Have the run say that its reference was its own start."""
    path = folder / "config.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    write_atomic(
        path, "\n".join("reference: start" if line.startswith("reference:") else line for line in lines) + "\n"
    )


def let_the_reference_follow(folder: Path) -> None:
    """Write rows as a reference would have left them that went a tenth of the policy's way."""
    rows = read_rows(folder)
    for row in rows:
        for side in ("chosen", "rejected"):
            row[f"{side}_logratio"] *= 0.9
    write_atomic(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


BIASED = Labeller("bt", length_bias=0.4)
FLIPPED = Labeller("bt", flip=0.45)
CASES = (
    Case("dpo .5", options={"beta": 0.5}),
    Case("dpo 1", options={"beta": 1.0}),
    Case("dpo 3", options={"beta": 3.0}),
    Case("dpo 1 rmsprop", options={"beta": 1.0, "optimizer": "rmsprop", "lr": 1e-3, "schedule": "constant"}),
    Case("cdpo 1", options={"beta": 1.0, "loss": {"name": "cdpo", "label_smoothing": 0.1}}),
    Case("ipo_sum .3", options={"beta": 0.3, "loss": {"name": "ipo_sum"}}),
    Case(
        "beta .01",
        ("displacement", "coverage"),
        ("over_optimisation",),
        options={"beta": 0.01},
        times=2,
    ),
    Case(
        "few pairs",
        ("over_optimisation", "memorising"),
        ("saturation", "displacement", "coverage"),
        options={"beta": 1.0},
        times=2,
        share=0.05,
    ),
    Case("length bias", ("length_exploitation",), labels=BIASED, held_out=BIASED, options={"beta": 1.0}),
    Case("flipped", ("label_noise",), labels=FLIPPED, held_out=FLIPPED, options={"beta": 1.0}),
    Case("held out flipped", ("label_noise",), held_out=Labeller("bt", flip=1.0), options={"beta": 1.0}),
    Case(
        "deterministic",
        ("saturation",),
        ("over_optimisation", "memorising", "displacement", "coverage"),
        labels=Labeller("deterministic"),
        held_out=Labeller("deterministic"),
        options={"beta": 0.5},
        times=3,
        share=0.05,
    ),
    Case(
        "memorised",
        ("memorising",),
        ("over_optimisation", "saturation", "displacement", "coverage"),
        options={"beta": 1.0},
        times=2,
        share=0.012,
    ),
    Case(
        "lr too high", ("high_lr",), ("displacement", "coverage", "over_optimisation"), options={"beta": 1.0, "lr": 0.3}
    ),
    Case("lr explodes", ("non_finite",), options={"beta": 1.0, "lr": 1e30, "warmup_steps": 0}),
    Case(
        "other reference",
        ("reference_drift",),
        ("coverage",),  # it goes far from its start, being held to something else
        options={"beta": 1.0, "reference": "model"},
        spoil=call_it_the_start,
    ),
    Case("moving reference", ("reference_drift",), options={"beta": 1.0}, spoil=let_the_reference_follow),
)


def place_of(out: Path, seed: int, case: Case) -> Path:
    return out / f"seed-{seed}" / case.name.replace(" ", "-")


def finished(out: Path, seed: int, case: Case) -> bool:
    return (place_of(out, seed, case) / "made.json").exists()


def make_run(out: Path, seed: int, case: Case, size: Size) -> None:
    """Make the world of a seed where it is not there yet, train, spoil, measure."""
    began = time.perf_counter()
    home, folder, world = out / f"seed-{seed}", place_of(out, seed, case), WORLD
    sft = fine_tune(home, seed, size)
    tokenizer, reference = load_tokenizer(sft), load_model(sft)
    num = round(size.prompts * case.share)
    pairs = collect(home, seed, world, reference, tokenizer, "pairs", num, case.labels)
    held_out = collect(home, seed, world, reference, tokenizer, "held_out", size.held_out, case.held_out)
    options = common(home, world, pairs, folder) | {
        "model": str(sft),
        "optimizer": "adamw",
        "lr": 3e-3,
        "schedule": "cosine",
        "batch_size": 32,
        "max_steps": round(size.steps * case.times),
        "eval_data": str(held_out),
        "eval_every": round(size.steps * case.times / 6),
        "snapshots": 2.0,
        **case.options,
    }
    if "reference" in options:
        options["reference"] = str(home / options["reference"])
    if folder.exists():
        shutil.rmtree(folder)  # was broken off
    try:
        run_dpo(check_config(DpoConfig, options))
    except TrainingError:
        if case.own != ("non_finite",):
            raise
    else:
        found = measured(folder, world, reference, tokenizer, read_pairs(pairs))
        write_atomic(folder / "measured.json", found.model_dump_json(exclude_defaults=True) + "\n")
    if case.spoil is not None:
        case.spoil(folder)
    for name in ("snapshots", "checkpoints", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_atomic(folder / "made.json", json.dumps({"seconds": round(time.perf_counter() - began, 1)}) + "\n")


def common(home: Path, world: World, data: Path, folder: Path) -> dict[str, Any]:
    return {
        "data": {"path": str(data), "order": "example"},
        "out": str(folder),
        "cache": str(home / "cache"),
        "max_response_length": world.max_words,
        "truncation": "trim_response",
        "warmup_steps": 20,
        "threads": 1,
    }


def fine_tune(home: Path, seed: int, size: Size) -> Path:
    """A corpus, an untrained model, and SFT: what all runs of a seed start from."""
    sft, world = home / "sft", WORLD
    if (sft / "summary.json").exists():
        return sft / "model"
    tokenizer = build_tokenizer()
    home.mkdir(parents=True, exist_ok=True)
    save_model(build_model(tokenizer, seed), tokenizer, home / "model", card="# An untrained model\n")
    write_rows(home / "corpus.jsonl", weigh_repeats(draw_corpus(world, size.texts, seed)))
    options = {
        "model": str(home / "model"),
        "lr": 1e-2,
        "schedule": "cosine",
        "batch_size": 64,
        "max_steps": size.sft_steps,
    }
    run_sft(check_config(SftConfig, common(home, world, home / "corpus.jsonl", sft) | options))
    return sft / "model"


def collect(
    home: Path,
    seed: int,
    world: World,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    part: str,
    num: int,
    labeller: Labeller,
) -> Path:
    """Samples of the fine-tuned model, the same for every labeller, and the pairs among them."""
    path = home / f"{part}-{num}-{labeller.kind}-flip{labeller.flip:g}-bias{labeller.length_bias:g}.jsonl"
    if path.exists():
        return path
    prompts = [world.prompts[index % len(world.prompts)] for index in range(num)]
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts for _ in range(RESPONSES)]
    drawn = generate(
        model, tokenizer, ids, Sampling(world.max_words, seed=2 * seed + (part == "pairs")), batch_size=512
    )
    groups: list[Sequence[Generation]] = [drawn[at : at + RESPONSES] for at in range(0, len(drawn), RESPONSES)]
    pairs = label_samples(world, list(zip(prompts, groups, strict=True)), labeller, seed)
    write_rows(path, pairs.preferences)
    return path


def measured(
    folder: Path,
    world: World,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[tuple[str, str, str]],
) -> Measured:
    """Exact figures of a run: its way in KL and reward, lengths, and how much lies outside what was compared."""
    start = walk_outcomes(reference, tokenizer, world)
    ref_logps, meter = start.logps, world_meter(world, tokenizer, start)
    model = load_model(folder / "model")
    final = outcome_logps(model, tokenizer, world)
    points = {0: meter(reference), max(row["step"] for row in read_rows(folder)): meter(model)}
    for saved in list_checkpoints(folder / "snapshots"):
        loaded = load_checkpoint(folder / "snapshots", saved)
        assert loaded is not None  # a named one is there, or loading it raises
        if step_of(saved) not in points:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(loaded.state.tensors["model"][name])
            points[step_of(saved)] = meter(model)
    seen = np.zeros(final.shape, dtype=bool)
    for prompt, *texts in pairs:
        seen[world.prompts.index(prompt), [world.outcome(text) for text in texts]] = True
    lengths = np.concatenate(
        [
            np.full(12**words, min(words + 1, world.max_words), dtype=float)
            for words in range(world.min_words, world.max_words + 1)
        ]
    )
    return Measured(
        frontier=tuple(Point(step=step, kl=at["kl"], reward=at["reward"]) for step, at in sorted(points.items())),
        sampled_tokens=mean_length(final, lengths),
        ref_sampled_tokens=mean_length(ref_logps, lengths),
        effective_share=float((1 / np.exp(2 * final - ref_logps).sum(axis=1)).mean()),
        unseen_mass=float(np.where(seen, 0.0, np.exp(final)).sum(axis=1).mean()),
    )


def mean_length(logps: np.ndarray, lengths: np.ndarray) -> float:
    """Mean tokens of a policy's samples, those left out that are no responses of the world."""
    mass = np.exp(logps[:, :-1])
    return float((mass @ lengths / mass.sum(axis=1)).mean())


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def read_pairs(path: Path) -> list[tuple[str, str, str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]


def write_rows(path: Path, records: Sequence[Record]) -> None:
    write_atomic(path, "".join(json.dumps(to_row(record)) + "\n" for record in records))

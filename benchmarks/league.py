"""Every loss on a world whose best policy is known: true reward within KL budgets, and what bad labels do to it.

    python benchmarks/league.py --out runs/league            # prints its estimate first; resumable
    python benchmarks/league.py --losses dpo,simpo --seeds 0

Each loss is trained on clean labels at three settings of its main option and three seeds, and the best reward that any
of the three reached within a KL counts. The setting that is best on average is then trained on labels of which a fifth
are flipped, on labels that prefer long responses, and on labels with ties. Writes OUT/league.json, docs/league.md and
docs/league.svg.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planted import Size, common, fine_tune, mean_length
from preftree.losses.registry import LOSSES, find
from preftree.worlds.sentiment import WORLDS, Labeller

SIZE = Size("varied", 4000, 150, 400, 150, 100, 0.045)
BUDGETS = (1.0, 2.0, 4.0)
FACTOR = 1.5
POOR = 0.25
"""A regret that is called bad."""
CONDITIONS = {
    "clean": Labeller("bt"),
    "flipped": Labeller("bt", flip=0.2),
    "long": Labeller("bt", length_bias=0.15),
    "ties": Labeller("bt", ties="davidson", tie_parameter=1.0),
}
LEFT_OUT = {
    "modpo": "needs a second objective",
    "constrained_dpo": "needs a cost",
    "sft": "prefers nothing; Preferred-FT is `preftree sft` with side=chosen, see numbers.md",
}

# The main option of a loss and the values tried; three steps of a factor of about 3 round what suits this world.
USUAL = ("beta", (0.3, 1.0, 3.0))
MAIN: dict[str, tuple[str, tuple[Any, ...]]] = {
    "ipo": ("beta", (0.1, 0.3, 1.0)),
    "ipo_sum": ("beta", (0.1, 0.3, 1.0)),
    "slic": ("margin", (0.5, 2.0, 5.0)),
    "orpo": ("odds_weight", (0.3, 1.0, 3.0)),
    "simpo": ("beta", (1.0, 3.0, 10.0)),
    "alphapo": ("beta", (1.0, 3.0, 10.0)),
    "rrhf": ("nll_weight", (0.1, 0.3, 1.0)),
    "sppo": ("beta", (0.1, 0.3, 1.0)),
    "sppo_soft": ("beta", (0.1, 0.3, 1.0)),
    "chi_po": ("beta", (0.1, 0.3, 1.0)),
    "ln_dpo": ("beta", (1.0, 3.0, 10.0)),
    "gpo": ("f", ("squared", "exponential", "savage")),
    "cal_dpo": ("beta", (0.1, 0.3, 1.0)),
    "unlikelihood": ("alpha", (0.03, 0.1, 0.3)),
}
FIXED: dict[str, dict[str, Any]] = {"gpo": {"beta": 1.0}, "slic": {"nll_weight": 0.1}}


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    loss: str
    value: Any
    condition: str
    seed: int

    def folder(self, out: Path) -> Path:
        return out / f"seed-{self.seed}" / self.condition / f"{self.loss}-{self.value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/league"))
    parser.add_argument("--losses", help="names with commas between; all by default")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where league.md and league.svg go")
    options = parser.parse_args()
    names = options.losses.split(",") if options.losses else [name for name in LOSSES if name not in LEFT_OUT]
    for name in names:
        find(name)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    clean = [Job(name, value, "clean", seed) for seed in seeds for name in names for value in main_option(name)[1]]
    others = [condition for condition in CONDITIONS if condition != "clean"]
    print(estimate(options.out, clean, len(others) * len(names) * len(seeds), options.workers), flush=True)
    run_all(options.out, clean, options.workers)
    best = {name: best_setting(options.out, name, seeds) for name in names}
    rest = [
        Job(name, best[name], condition, seed)
        for condition in others
        for seed in seeds
        for name in names
        if not (condition == "ties" and find(name).kind == "list")
    ]
    run_all(options.out, rest, options.workers)
    league = {name: entry(options.out, name, best[name], seeds, others) for name in names}
    (options.out / "league.json").write_text(json.dumps(league, indent=1) + "\n", encoding="utf-8")
    (options.docs / "league.md").write_text(page(league, seeds), encoding="utf-8")
    (options.docs / "league.svg").write_text(plot(league), encoding="utf-8")
    print(f"{options.docs / 'league.md'}: {len(league)} losses")


def main_option(name: str) -> tuple[str, tuple[Any, ...]]:
    return MAIN.get(name, USUAL)


def estimate(out: Path, clean: Sequence[Job], more: int, workers: int) -> str:
    left = sum(not (job.folder(out) / "result.json").exists() for job in clean)
    seconds = (left + more) * (SIZE.steps * SIZE.seconds + 2.5) / workers
    return (
        f"{left} runs on clean labels and up to {more} on others: about {seconds / 60:.0f} min with {workers} workers"
    )


def run_all(out: Path, jobs: Sequence[Job], workers: int) -> None:
    """Every run that has no result yet; the worlds of the seeds first, one process each."""
    todo = [job for job in jobs if not (job.folder(out) / "result.json").exists()]
    began = time.perf_counter()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), quiet) as pool:
        for future in [pool.submit(make_world, out, seed) for seed in sorted({job.seed for job in todo})]:
            future.result()
        futures = {pool.submit(make_run, out, job): job for job in todo}
        for number, future in enumerate(as_completed(futures), 1):
            future.result()
            if number % 20 == 0 or number == len(todo):
                print(f"{time.perf_counter() - began:6.0f} s  {number} of {len(todo)} runs", flush=True)


def quiet() -> None:
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    logging.getLogger("preftree").setLevel(logging.CRITICAL)
    disable_progress_bar()


def make_world(out: Path, seed: int) -> None:
    """The fine-tuned model of a seed, samples of it, and files of pairs and rankings for each kind of labels."""
    from preftree.generate.hf import Sampling, generate
    from preftree.models.load import load_model, load_tokenizer
    from preftree.storage.atomic import write_atomic
    from preftree.worlds.sentiment import label_samples

    home, world = out / f"seed-{seed}", WORLDS[SIZE.world]
    sft = fine_tune(home, seed, SIZE)
    if (home / "held_out-ties.jsonl").exists():
        return
    tokenizer, model = load_tokenizer(sft), load_model(sft)
    for part, num, offset in (("pairs", SIZE.prompts, 1), ("held_out", SIZE.held_out, 2)):
        prompts = [world.prompts[index % len(world.prompts)] for index in range(num)]
        ids = [tokenizer(prompt)["input_ids"] for prompt in prompts for _ in range(4)]
        drawn = generate(model, tokenizer, ids, Sampling(world.max_words, seed=10 * seed + offset), batch_size=512)
        groups = [(prompt, drawn[4 * at : 4 * at + 4]) for at, prompt in enumerate(prompts)]
        for condition, labeller in CONDITIONS.items():
            pairs = label_samples(world, groups, labeller, 10 * seed + offset).preferences
            rows = [pair_row(world, labeller, pair) for pair in pairs]
            lists = [row for row in rank(world, groups, labeller, 10 * seed + offset) if row is not None]
            for name, content in ((f"lists-{part}-{condition}", lists), (f"{part}-{condition}", rows)):
                write_atomic(home / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in content))


def pair_row(world: Any, labeller: Labeller, pair: Any) -> dict[str, Any]:
    """A pair with what a judge who knows the rewards would add: by how much, and how surely."""
    from preftree.data.rows.conversion import to_row
    from preftree.worlds.grammar import reward

    gap = reward(world, pair.prompt, pair.chosen) - reward(world, pair.prompt, pair.rejected)
    sure = 1 / (1 + math.exp(-labeller.scale * gap))
    return to_row(pair) | {"margin": max(abs(gap), 1e-3), "win_prob": sure}


def rank(world: Any, groups: Sequence[Any], labeller: Labeller, seed: int) -> list[dict[str, Any] | None]:
    """Rankings drawn from the Plackett-Luce model of the same rewards: any two stand as with Bradley-Terry labels."""
    from preftree.worlds.grammar import reward

    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any] | None] = []
    for prompt, drawn in groups:
        texts = [text for text in dict.fromkeys(one.text for one in drawn) if text and "<" not in text]
        worth = np.array([reward(world, prompt, text) + labeller.length_bias * len(text.split()) for text in texts])
        scores = worth + rng.gumbel(size=len(texts)) / labeller.scale
        if rng.random() < labeller.flip:
            scores = -scores
        order = np.argsort(-scores)
        row = {
            "prompt": prompt,
            "responses": [texts[place] for place in order],
            "scores": [round(float(scores[place]), 6) for place in order],
        }
        rows.append(row if len(texts) > 1 else None)
    return rows


def make_run(out: Path, job: Job) -> None:
    """Train and measure one loss; a run that stops for figures that are not finite has that for its result."""
    from preftree.config.dpo import DpoConfig
    from preftree.config.load import check_config
    from preftree.errors import TrainingError
    from preftree.evaluate.frontier import trace, world_meter
    from preftree.models.load import load_model, load_tokenizer
    from preftree.run_folder.reader import read_run
    from preftree.train.dpo import run_dpo
    from preftree.worlds.walk import outcome_logps, walk_outcomes

    home, folder, world = out / f"seed-{job.seed}", job.folder(out), WORLDS[SIZE.world]
    if folder.exists():
        shutil.rmtree(folder)  # was broken off
    lists = find(job.loss).kind == "list" and job.loss in ("rrhf", "lipo", "plackett_luce")
    option, _ = main_option(job.loss)
    kind = "lists-" if lists else ""
    loss: dict[str, Any] = {"name": job.loss, **FIXED.get(job.loss, {})}
    options = common(home, world, home / f"{kind}pairs-{job.condition}.jsonl", folder) | {
        "model": str(home / "sft" / "model"),
        "optimizer": "adamw",
        "lr": 3e-3,
        "schedule": "cosine",
        "batch_size": 8 if lists else 32,
        "max_steps": SIZE.steps,
        "eval_data": str(home / f"{kind}held_out-{job.condition}.jsonl"),
        "snapshots": FACTOR,
        "seed": job.seed,
    }
    options["data"]["max_rejected"] = 0.2  # a flipped ranking may contradict another one of its prompt
    loss[option] = job.value
    try:
        run_dpo(check_config(DpoConfig, options | {"loss": loss}))
    except TrainingError as error:
        if (folder / "model").exists() or read_run(folder).rows[-1].get("split") != "stop":
            raise  # not for its figures
        result: dict[str, Any] = {"error": str(error)}
    else:
        tokenizer, reference = load_tokenizer(home / "sft" / "model"), load_model(home / "sft" / "model")
        outcomes = walk_outcomes(reference, tokenizer, world)
        ref_logps = outcomes.logps
        points = trace(folder, world_meter(world, tokenizer, outcomes), beta=None, seed=job.seed, first=5)
        final = outcome_logps(load_model(folder / "model"), tokenizer, world)
        held_out = next(row for row in reversed(read_run(folder).rows) if row.get("split") == "eval")
        lengths = response_lengths()
        result = {
            "points": [{"kl": point.kl, "reward": point.reward, "step": point.step} for point in points],
            "budgets": budgets(points, ref_logps),
            "held_out": {name: value for name, value in held_out.items() if isinstance(value, int | float)},
            "tokens": mean_length(final, lengths),
            "ref_tokens": mean_length(ref_logps, lengths),
            "outside": float(np.exp(final[:, -1]).mean()),
        }
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("snapshots", "checkpoints", "tensorboard", "model"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "result.json").write_text(json.dumps(result) + "\n", encoding="utf-8")


def budgets(points: Sequence[Any], ref_logps: np.ndarray) -> list[dict[str, float]]:
    """The best reward at each KL, the start's own among them, and the optimum there."""
    from preftree.worlds.exact import best_reward, kl_and_reward
    from preftree.worlds.grammar import reward_table

    table = reward_table(WORLDS[SIZE.world])
    start = kl_and_reward(ref_logps, ref_logps, table).reward
    return [
        {
            "kl": kl,
            "reward": max([start, *(point.reward for point in points if point.kl <= kl)]),
            "optimum": best_reward(ref_logps, table, kl),
        }
        for kl in BUDGETS
    ]


def response_lengths() -> np.ndarray:
    """Tokens of each outcome but the last: its words, and the EOS where it is not cut."""
    world = WORLDS[SIZE.world]
    return np.concatenate(
        [np.full(12**n, min(n + 1, world.max_words), float) for n in range(world.min_words, world.max_words + 1)]
    )


def results(out: Path, name: str, value: Any, condition: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    paths = [Job(name, value, condition, seed).folder(out) / "result.json" for seed in seeds]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def regret(found: Sequence[dict[str, Any]], place: int) -> float | None:
    """Mean regret at one budget; None where a run broke off."""
    if not found or any("error" in one for one in found):
        return None
    return statistics.fmean(one["budgets"][place]["optimum"] - one["budgets"][place]["reward"] for one in found)


def reached(out: Path, name: str, seeds: Sequence[int]) -> list[dict[str, float]]:
    """At each budget the best reward of all settings on clean labels, and what the optimum has more; means over seeds.

    A setting that broke off counts as the start, which is within every budget.
    """
    found = []
    for place, kl in enumerate(BUDGETS):
        own = []
        for seed in seeds:
            runs = [one for value in main_option(name)[1] for one in results(out, name, value, "clean", [seed])]
            own.append([one["budgets"][place] for one in runs if "error" not in one])
        sound = [points for points in own if points]
        rewards = [max(point["reward"] for point in points) for points in sound]
        regrets = [points[0]["optimum"] - best for points, best in zip(sound, rewards, strict=True)]
        found.append({"kl": kl, "reward": statistics.fmean(rewards), "regret": statistics.fmean(regrets)})
    return found


def best_setting(out: Path, name: str, seeds: Sequence[int]) -> Any:
    """The value with the least regret, averaged over budgets and seeds; the middle one where all broke off."""
    _, values = main_option(name)
    known = {}
    for value in values:
        found = [regret(results(out, name, value, "clean", seeds), place) for place in range(len(BUDGETS))]
        known[value] = math.inf if None in found else statistics.fmean(part for part in found if part is not None)
    best = min(values, key=lambda value: known[value])
    return values[1] if math.isinf(known[best]) else best


def entry(out: Path, name: str, value: Any, seeds: Sequence[int], others: Sequence[str]) -> dict[str, Any]:
    """A row of the league."""
    clean = results(out, name, value, "clean", seeds)
    sound = [one for one in clean if "error" not in one]
    told: dict[str, Any] = {
        "option": main_option(name)[0],
        "value": value,
        "reached": reached(out, name, seeds),
        "clean": regret(clean, 1),
        "stopped": len(clean) - len(sound),
    }
    for label, read in (
        ("accuracy", lambda one: one["held_out"].get("accuracy")),
        ("chosen_logratio", lambda one: one["held_out"].get("chosen_logratio")),
        ("drift", lambda one: one["tokens"] - one["ref_tokens"]),
        ("kl", lambda one: one["points"][-1]["kl"]),
    ):
        values = [found for one in sound if (found := read(one)) is not None]
        told[label] = statistics.fmean(values) if values else None
    for condition in others:
        found = results(out, name, value, condition, seeds)
        told[condition] = regret(found, 1)
        if condition == "long" and told[condition] is not None:
            told["long_drift"] = statistics.fmean(one["tokens"] - one["ref_tokens"] for one in found)
    return told


def page(league: dict[str, Any], seeds: Sequence[int]) -> str:
    """docs/league.md."""
    ranked = sorted(league, key=lambda name: league[name]["reached"][1]["regret"])
    optimum = [
        league[ranked[0]]["reached"][place]["reward"] + league[ranked[0]]["reached"][place]["regret"]
        for place in range(3)
    ]
    poor = [name for name in ranked if league[name]["reached"][2]["regret"] > POOR]
    stopped = [name for name in ranked if league[name]["stopped"]]
    lines = [
        "# The loss league",
        "",
        "    make bench-league",
        "",
        f"Every loss on the sentiment world `{SIZE.world}`: {SIZE.steps} steps of 32 pairs (8 rankings for losses of",
        f"lists), AdamW 3e-3, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}, three settings of its main option. The",
        "first three columns are the best true reward that any of the three reached within a KL, in brackets regret",
        f"against the best policy; the optimum is {optimum[0]:.3f}, {optimum[1]:.3f} and {optimum[2]:.3f}.",
        "The other columns are of the setting with the least regret averaged over the budgets: its regret at KL ≤ 2 on",
        "clean labels, on labels of which a fifth are flipped, on labels that prefer longer responses, and on labels",
        "with ties (losses that cannot use ties leave them out).",
        "",
        "| loss | KL ≤ 1 | KL ≤ 2 | KL ≤ 4 | setting | clean | flipped | long | ties | accuracy | chosen, nats |"
        " length | length, long |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ranked:
        row = league[name]
        cells = [
            f"`{name}`",
            *(f"{number(one['reward'])} ({number(one['regret'])})" for one in row["reached"]),
            f"{row['option']} {row['value']}",
            *(number(row[condition]) for condition in CONDITIONS),
            number(row["accuracy"]),
            number(row["chosen_logratio"], 1, sign=True),
            number(row["drift"], 2, sign=True),
            number(row.get("long_drift"), 2, sign=True),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "*accuracy*: held-out pairs ranked as labelled by the loss's implicit reward. *chosen*: mean logratio of",
        "held-out chosen responses at the end. *length*: tokens of the policy's samples minus the reference's. Empty:",
        "the loss has no such figure, or a run stopped because figures were not finite.",
        "",
        f"**Losses with large regret**: {named(poor)} stay more than {POOR} below the optimum even at KL ≤ 4, at every",
        f"tried setting. Stopped because figures were not finite: {named(stopped)}.",
        "",
        "The steps are few and the settings three: a loss with its best setting outside them, or that learns slowly,",
        "looks worse than it is. Beta determines the KL at the end of a run, so a loss with three settings that all",
        "end at low KL is compared there. Differences of .02 are within the variation of seeds. `sppo_soft` uses the",
        "win probability by a judge who knows the rewards, and `odpo` the size of the margin: label noise does not",
        "affect these.",
        "",
        f"Not in the league: {', '.join(f'`{name}` ({why})' for name, why in LEFT_OUT.items())}.",
        "",
        "![Regret at KL 2 by loss](league.svg)",
        "",
    ]
    return "\n".join(lines)


def named(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    if value is None:
        return ""
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and digits == 3 else text


def plot(league: dict[str, Any]) -> str:
    """Regret at KL <= 2 as bars, clean and flipped."""
    ranked = sorted(league, key=lambda name: league[name]["clean"] or 0.0)
    known = {name: league[name] for name in ranked if league[name]["clean"] is not None}
    ranked = list(known)
    top = max([value for row in known.values() for key in ("clean", "flipped") if (value := row[key])], default=1.0)
    parts = []
    for place, name in enumerate(ranked):
        y, scale = 24 + 16 * place, 420 / top
        parts.append(f'<text x="128" y="{y + 10}" text-anchor="end">{name}</text>')
        parts.append(
            f'<rect x="134" y="{y + 1}" width="{known[name]["clean"] * scale:.1f}" height="7" fill="#2b5f9e"/>'
        )
        if known[name]["flipped"] is not None:
            wide = known[name]["flipped"] * scale
            parts.append(f'<rect x="134" y="{y + 8}" width="{wide:.1f}" height="4" fill="#d08a3c"/>')
    height = 40 + 16 * len(ranked)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 {height}" font-family="sans-serif" font-size="11" '
        f'fill="#777"><text x="134" y="14">regret at KL 2, up to {top:.2f}: clean labels (blue), a fifth flipped '
        f"(orange)</text>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    main()

"""Two objectives, sentiment and brevity, on a world where the best trade between them is known exactly.

    python benchmarks/pareto.py --out runs/pareto            # prints its estimate first; resumable

Three ways to train for w x sentiment + (1 - w) x brevity, each at several w and seeds: MODPO (labels of sentiment, the
other objective's margin beside them), DPO on labels of the weighted sum itself, and a weighted sum of two DPO losses,
one on labels of each objective. Every policy is measured exactly. Writes OUT/pareto.json, docs/pareto.md and
docs/pareto.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from league import quiet
from planted import Size, common, fine_tune
from preftree.data.rows.conversion import to_row
from preftree.records import Preference
from preftree.storage.atomic import write_atomic
from preftree.worlds.exact import best_reward, kl_and_reward, optimum
from preftree.worlds.grammar import WORDS, World, reward, reward_table
from preftree.worlds.sentiment import WORLDS, Labeller, label_samples

SIZE = Size("varied", 4000, 150, 400, 0, 150, 0.045)
SCALE, BETA = 10.0, 1.0
"""Labels are drawn with P(a beats b) = sigmoid(SCALE x difference); MODPO's margins are in the same unit."""
WEIGHTS = (0.9, 0.7, 0.5, 0.3, 0.1)
METHODS = {
    "modpo": "MODPO",
    "labels": "DPO on labels of the weighted sum",
    "losses": "sum of two DPO losses",
}
ENDS = {1.0: "DPO on sentiment", 0.0: "DPO on brevity"}
BLUE, ORANGE, GREEN, GREY = "#2b5f9e", "#d08a3c", "#4b9460", "#888"
READING = (
    "What these three seeds show:",
    "",
    "- MODPO and labels of the weighted sum have the same optimum, and end equally far from the front and from it:",
    "  knowing one objective's reward is worth as much here as labels made for this w, at every w, from one file of",
    "  labels.",
    "- The sum of two losses stays nearer the start at the same beta: it averages the probabilities of the two",
    "  labellers, which contradict each other where the objectives do. It is no further from the front at its",
    "  KL, but w controls its end less.",
    "- No method reaches the front where sentiment has weight: labels are one draw for each pair. Brevity alone, which",
    "  a policy can infer from the position, is almost solved.",
    "- Every objective that prefers short responses makes empty ones likely, which no pair contains: a second",
    "  objective needs data, or a sampling rule, for such responses.",
)
TONES = {"modpo": BLUE, "labels": ORANGE, "losses": GREEN, "end": GREY}


@dataclass(frozen=True, slots=True)
class Job:
    """One run; at the ends, w = 1 and w = 0, all methods are DPO on labels of one objective."""

    method: str
    weight: float
    seed: int

    def folder(self, out: Path) -> Path:
        return out / f"seed-{self.seed}" / f"{self.method}-{self.weight:g}"


def brevity(world: World, response: str) -> float:
    """A second objective: 1 for the shortest response of the world, 0 for the longest, and for what is none."""
    if world.outcome(response) == world.num_outcomes - 1:
        return 0.0
    return (world.max_words - len(response.split())) / max(1, world.max_words - world.min_words)


def brevities(world: World) -> Float[np.ndarray, "X N"]:
    """The brevity of every outcome of every prompt, [prompts, num_outcomes].

    Raises:
      ConfigError: the world has too many outcomes.
    """
    world.require_countable()
    lengths = range(world.min_words, world.max_words + 1)
    values = [(world.max_words - length) / max(1, world.max_words - world.min_words) for length in lengths]
    row = np.repeat([*values, 0.0], [*(len(WORDS) ** length for length in lengths), 1])
    return np.tile(row, (len(world.prompts), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pareto"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where pareto.md and pareto.svg go")
    options = parser.parse_args()
    quiet()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    jobs = [Job(method, weight, seed) for seed in seeds for method in METHODS for weight in WEIGHTS]
    jobs += [Job("end", weight, seed) for seed in seeds for weight in ENDS]
    todo = [job for job in jobs if not (job.folder(options.out) / "result.json").exists()]
    print(f"{len(todo)} runs: about {len(todo) * (SIZE.steps * SIZE.seconds + 2) / 60:.0f} min", flush=True)
    for number, job in enumerate(sorted(todo, key=lambda job: job.seed), 1):
        make_run(options.out, job)
        if number % 10 == 0:
            print(f"{number} of {len(todo)} runs", flush=True)
    found = [json.loads((job.folder(options.out) / "result.json").read_text(encoding="utf-8")) for job in jobs]
    write_atomic(options.out / "pareto.json", json.dumps(found, indent=1) + "\n")
    write_atomic(options.docs / "pareto.md", page(found, len(seeds)))
    write_atomic(options.docs / "pareto.svg", plot(found))
    print(f"{options.docs / 'pareto.md'}: {len(found)} runs")


def make_pairs(home: Path, world: World, seed: int, sft: Path, job: Job) -> Path:
    """The pairs of a seed, labelled for a job; the same pairs and the same luck of the label for all jobs."""
    from preftree.generate.hf import Sampling, generate
    from preftree.models.load import load_model, load_tokenizer

    path = home / f"{job.method}-{job.weight:g}.jsonl"
    if path.exists():
        return path
    drawn = home / "pairs.json"
    if not drawn.exists():
        tokenizer, model = load_tokenizer(sft), load_model(sft)
        prompts = [world.prompts[index % len(world.prompts)] for index in range(2 * SIZE.prompts)]
        ids = [tokenizer(prompt)["input_ids"] for prompt in prompts for _ in range(4)]
        texts = generate(model, tokenizer, ids, Sampling(world.max_words, seed=10 * seed + 1), batch_size=512)
        groups = [(prompt, texts[4 * at : 4 * at + 4]) for at, prompt in enumerate(prompts)]
        pairs = label_samples(world, groups, Labeller("bt"), seed).preferences
        rows = [[pair.prompt, *sorted((str(pair.chosen), str(pair.rejected))), pair.weight] for pair in pairs]
        write_atomic(drawn, json.dumps(sorted(rows)) + "\n")
    rows = json.loads(drawn.read_text(encoding="utf-8"))
    rng = np.random.default_rng(seed)
    luck, half = rng.random(len(rows)), rng.random(len(rows)) < 0.5
    written = []
    for place, (prompt, first, second, count) in enumerate(rows):
        w, factor = job.weight, 1.0
        if job.method == "modpo":
            w = 1.0
        if job.method == "losses":  # each objective has half of twice as many pairs
            w, factor = (1.0, job.weight) if half[place] else (0.0, 1 - job.weight)
        elif not half[place]:
            continue
        worth = [w * reward(world, prompt, text) + (1 - w) * brevity(world, text) for text in (first, second)]
        chosen, rejected = (first, second) if luck[place] < expit(SCALE * (worth[0] - worth[1])) else (second, first)
        row = to_row(Preference(prompt, chosen, rejected, weight=count * factor))
        if job.method == "modpo":
            row["other_margin"] = SCALE * (brevity(world, chosen) - brevity(world, rejected))
        written.append(row)
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in written))
    return path


def make_run(out: Path, job: Job) -> None:
    """Train one policy, and say exactly where it and its target stand."""
    from preftree.config.dpo import DpoConfig
    from preftree.config.load import check_config
    from preftree.models.load import load_model, load_tokenizer
    from preftree.train.dpo import run_dpo
    from preftree.worlds.walk import outcome_logps

    home, folder, world = out / f"seed-{job.seed}", job.folder(out), WORLDS[SIZE.world]
    sft = fine_tune(home, job.seed, SIZE)
    data = make_pairs(home, world, job.seed, sft, job)
    if folder.exists():
        shutil.rmtree(folder)  # was broken off
    loss: dict[str, Any] = {"name": "dpo", "beta": BETA}
    if job.method == "modpo":
        loss = {"name": "modpo", "beta": BETA, "objective_weight": job.weight}
    options = common(home, world, data, folder) | {
        "model": str(sft),
        "optimizer": "adamw",
        "lr": 3e-3,
        "schedule": "cosine",
        # The two losses share each step, so that each of them sees 32 pairs a step on average.
        "batch_size": 64 if job.method == "losses" else 32,
        "max_steps": SIZE.steps,
        "seed": job.seed,
        "loss": loss,
    }
    run_dpo(check_config(DpoConfig, options))
    tokenizer = load_tokenizer(sft)
    ref_logps = outcome_logps(load_model(sft), tokenizer, world)
    policy = load_model(folder / "model")
    logps = outcome_logps(policy, tokenizer, world)
    empty = statistics.fmean(ends_at_once(policy, tokenizer, prompt) for prompt in world.prompts)
    outside = float(np.exp(logps[:, -1]).mean())
    ref_logps, logps = held_to_the_world(ref_logps), held_to_the_world(logps)
    both = reward_table(world), brevities(world)
    mixed = job.weight * both[0] + (1 - job.weight) * both[1]
    target = optimum(ref_logps, mixed, SCALE / BETA)
    here = stand(logps, ref_logps, both)
    result = {
        "method": job.method,
        "weight": job.weight,
        "seed": job.seed,
        **here,
        "outside": outside,
        "empty": empty,
        "regret": best_reward(ref_logps, mixed, here["kl"]) - kl_and_reward(logps, ref_logps, mixed).reward,
        "target": stand(target, ref_logps, both),
        "start": stand(ref_logps, ref_logps, both),
        "front": [
            stand(optimum(ref_logps, w * both[0] + (1 - w) * both[1], SCALE / BETA), ref_logps, both)
            for w in np.linspace(0, 1, 41)
        ],
    }
    for name in ("checkpoints", "tensorboard", "model"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_atomic(folder / "result.json", json.dumps(result) + "\n")


def ends_at_once(model: Any, tokenizer: Any, prompt: str) -> float:
    """The probability of an empty response."""
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].double()
    return float(logits.softmax(0)[tokenizer.eos_token_id])


def held_to_the_world(logps: np.ndarray) -> np.ndarray:
    """The policy as it samples where nothing but responses of the world may be drawn."""
    inside = logps[:, :-1] - np.log(np.exp(logps[:, :-1]).sum(axis=1, keepdims=True))
    return np.concatenate([inside, np.full((len(logps), 1), -np.inf)], axis=1)


def stand(logps: np.ndarray, ref_logps: np.ndarray, both: Sequence[np.ndarray]) -> dict[str, float]:
    """KL to the reference and both expected rewards, exactly."""
    points = [kl_and_reward(logps, ref_logps, table) for table in both]
    return {"kl": points[0].kl, "sentiment": points[0].reward, "brevity": points[1].reward}


def page(found: Sequence[dict[str, Any]], num_seeds: int) -> str:
    """docs/pareto.md."""
    lines = [
        "# Two objectives at once",
        "",
        "    make bench-pareto",
        "",
        "On real text the best trade-off between two objectives is unknown. In the sentiment world",
        f"`{SIZE.world}` ([worlds](worlds.md)) it is known: the first objective is sentiment, the second brevity, 1",
        "for a response of one word down to 0 for one of four. The best policy for w sentiment + (1 - w) brevity is",
        "reference x exp(s (w sentiment + (1 - w) brevity) / beta) / Z. All methods use the same pairs with the same",
        f"label noise, s = {SCALE:g}, beta = {BETA:g}, {SIZE.steps} steps of 32 pairs, AdamW 3e-3; means over",
        f"{num_seeds} seeds.",
        "",
        "- **MODPO** (`loss=modpo loss.objective_weight=W`) has pairs labelled by sentiment alone; a column",
        "  `other_margin` holds s times the brevity of the chosen response minus that of the rejected one.",
        "- **Labels of the weighted sum**: DPO on pairs labelled by the reward w x sentiment + (1 - w) x",
        "  brevity. It needs new labels for every w.",
        "- **Sum of two DPO losses**: pairs labelled by sentiment with weight w and as many others labelled by brevity",
        "  with weight 1 - w, in one file; a step is of 64 pairs, 32 of either on average.",
        "",
        "*Missing* is the regret in w x sentiment + (1 - w) x brevity to the best policy at the KL of this",
        "policy: its distance from the front. The position along the front is measured by *off target*: the",
        "distance in (sentiment, brevity) to the optimum of this w and beta. *Empty* is the probability of ending",
        "before the first word. No pair has an empty response, but preferring short ones makes it likely; the other",
        "figures are those of sampling restricted to the world (at least one word).",
        "",
        "| w | method | KL | sentiment | brevity | missing | off target | empty |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for weight in sorted({one["weight"] for one in found}, reverse=True):
        some = [one for one in found if one["weight"] == weight]
        target = mean_of([one["target"] for one in some])
        lines.append(
            f"| {weight:g} | optimum | {target['kl']:.2f} | {target['sentiment']:.3f} | {target['brevity']:.3f} | | | |"
        )
        for method in ("end", *METHODS):
            own = [one for one in some if one["method"] == method]
            if own:
                name, at = ENDS.get(weight, "") if method == "end" else METHODS[method], mean_of(own)
                lines.append(
                    f"| | {name} | {at['kl']:.2f} | {at['sentiment']:.3f} | {at['brevity']:.3f} | "
                    f"{spread([one['regret'] for one in own])} | {statistics.fmean(map(off_target, own)):.3f} | "
                    f"{statistics.fmean(one['empty'] for one in own):.2f} |"
                )
    lines += ["", "In brackets the smallest and the largest value over seeds.", "", *verdict(found), ""]
    lines += [*READING, ""]
    lines += ["![Sentiment against brevity: the exact front, and the policies](pareto.svg)", ""]
    return "\n".join(lines)


def verdict(found: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each method: its means over all weights and seeds."""
    lines = ["| over all w | missing | off target | KL over the target's | empty |", "|---|---|---|---|---|"]
    for method, name in METHODS.items():
        own = [one for one in found if one["method"] == method]
        excess = statistics.fmean(one["kl"] - one["target"]["kl"] for one in own)
        lines.append(
            f"| {name} | {spread([one['regret'] for one in own])} | {statistics.fmean(map(off_target, own)):.3f} | "
            f"{excess:+.2f} | {statistics.fmean(one['empty'] for one in own):.2f} |"
        )
    return lines


def mean_of(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.fmean(point[name] for point in points) for name in ("kl", "sentiment", "brevity")}


def off_target(one: dict[str, Any]) -> float:
    return float(np.hypot(*(one[name] - one["target"][name] for name in ("sentiment", "brevity"))))


def spread(values: Sequence[float]) -> str:
    ends = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{ends}"


def plot(found: Sequence[dict[str, Any]]) -> str:
    """Brevity against sentiment: the front of all targets as a line, each policy as a dot."""
    lines = [one["front"] for one in {one["seed"]: one for one in found}.values()]
    front = [mean_of(points) for points in zip(*lines, strict=True)]
    start = mean_of([one["start"] for one in found])
    shown = [*front, *found, start]
    low = {name: min(point[name] for point in shown) - 0.03 for name in ("sentiment", "brevity")}
    high = {name: max(point[name] for point in shown) + 0.03 for name in ("sentiment", "brevity")}

    def at(point: dict[str, Any]) -> tuple[float, float]:
        x, y = ((point[n] - low[n]) / (high[n] - low[n]) for n in ("sentiment", "brevity"))
        return 60 + 500 * x, 390 - 340 * y

    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in map(at, front))
    parts = [f'<path d="{path}" fill="none" stroke="#333" stroke-width="1.5"/>']
    for one in found:
        x, y = at(one)
        about = f"w {one['weight']:g}, seed {one['seed']}, KL {one['kl']:.2f}, missing {one['regret']:.3f}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{TONES[one["method"]]}" fill-opacity="0.8">'
            f"<title>{METHODS.get(one['method'], ENDS.get(one['weight'], ''))}: {about}</title></circle>"
        )
    for weight in (1.0, *WEIGHTS, 0.0):
        x, y = at(mean_of([one["target"] for one in found if one["weight"] == weight]))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="none" stroke="#333"/>')
        parts.append(f'<text x="{x + 7:.1f}" y="{y - 6:.1f}">{weight:g}</text>')
    x, y = at(start)
    parts.append(
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">+</text><text x="{x + 7:.1f}" y="{y + 4:.1f}">start</text>'
    )
    for name, x_axis in (("sentiment", True), ("brevity", False)):
        for tick in np.arange(np.ceil(low[name] * 10), high[name] * 10) / 10:
            point = {"sentiment": low["sentiment"], "brevity": low["brevity"]} | {name: float(tick)}
            x, y = at(point)
            place = (
                f'x="{x:.1f}" y="406" text-anchor="middle"' if x_axis else f'x="54" y="{y + 4:.1f}" text-anchor="end"'
            )
            parts.append(f"<text {place}>{tick:.1f}</text>")
    parts.append('<text x="310" y="424" text-anchor="middle">sentiment</text>')
    parts.append('<text x="16" y="220" text-anchor="middle" transform="rotate(-90 16 220)">brevity</text>')
    names = {**METHODS, "end": "DPO on one objective"}
    for (method, name), (x, y) in zip(names.items(), ((66, 16), (66, 34), (310, 16), (310, 34)), strict=True):
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{TONES[method]}"/>')
        parts.append(f'<text x="{x + 10}" y="{y}">{name}</text>')
    parts.append('<path d="M482 12h16" stroke="#333" stroke-width="1.5"/><text x="504" y="16">optimum, by w</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 432" font-family="sans-serif" font-size="11" '
        f'fill="#777"><path d="M60 390h500M60 390v-340" stroke="#bbb" fill="none"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main()

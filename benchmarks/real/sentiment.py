"""The controlled sentiment experiment of the DPO paper on a real model and a real reward: reward against KL, by method.

    python benchmarks/real/sentiment.py --out runs/real/sentiment --seeds 0        # prints its estimate; resumable

Rafailov et al. 2023 (arXiv:2305.18290, Section 6.1, figure 2). SmolLM2-135M-Instruct goes on with 300 beginnings of
opinions (openings.txt), given as plain text, without the chat template or a special token: it goes on as a base model
would. A continuation ends after 20 tokens. The reward is VADER's (vader.py). Four continuations of each of 240
beginnings are ranked by it, six pairs a beginning; 60 beginnings are held out, and every figure is of these.

Start and reference are the model itself, as the paper's are the model that wrote the pairs. Every method trains a LoRA
adapter of rank 16. PPO and RLOO see the reward itself (the paper's PPO-GT); DPO, Preferred-FT and Unlikelihood see only
its order in the pairs, and Best-of-N the reward of its samples.

KL is that of a whole response: the sum over its tokens of the exact KL over the vocabulary, averaged over sampled
responses. Writes OUT/seed-N/table.md and figures.json, and OUT/frontier.svg with all finished seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from commands import Chain, claim, once, one_sentence, preftree, rows, run_all, write_lines
from figure import plot
from prepare import prepare

from preftree.evaluate.best_of import expected_best
from preftree.run_folder.measured_file import read_measured
from preftree.run_folder.summary_file import read_summary
from preftree.stats.intervals import mean_interval

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Size:
    """How much is drawn, trained and measured.

    Attributes:
      train, held_out: Beginnings.
      samples: Continuations of each.
      new_tokens: Most tokens of a continuation.
      pairs_a_step: Pairs in a step of the methods on pairs.
      epochs: Their passes over the pairs.
      iterations, responses: Iterations of PPO and RLOO, and responses drawn in each.
      measured_samples: Responses to each held-out beginning at every measured step.
      best_of: The largest N of Best-of-N.
      budget: Tokens of a micro-batch.
    """

    train: int = 240
    held_out: int = 60
    samples: int = 4
    new_tokens: int = 20
    pairs_a_step: int = 64
    epochs: int = 3
    iterations: int = 40
    responses: int = 64
    measured_samples: int = 2
    best_of: int = 16
    budget: int = 1024


SIZES = {
    "default": Size(),
    "tiny": Size(8, 4, 4, 6, pairs_a_step=8, epochs=1, iterations=2, responses=8, best_of=4),
}
LORA = ["lora.r=16", "optimizer=adamw", "schedule=linear", "threads=1", "snapshots=4"]
# At 1e-4 fifteen of 57 steps moved a response by .1 nats.
ON_PAIRS = [*LORA, "lr=5e-4", "max_grad_norm=1"]
ONLINE = [*LORA, "lr=3e-4", "samples_per_prompt=4", "kl_coef=0.05"]
METHODS: dict[str, tuple[str, list[str]]] = {
    **{f"DPO, beta {beta:g}": ("dpo", [f"beta={beta:g}", *ON_PAIRS]) for beta in (0.05, 0.1, 1, 5)},
    "Unlikelihood, alpha .5": ("dpo", ["loss.name=unlikelihood", "loss.alpha=0.5", *ON_PAIRS]),
    "Preferred-FT": ("sft", ["side=chosen", *ON_PAIRS]),
    "PPO (true reward)": ("ppo", ["critic=shared", "ppo_epochs=2", "normalize_rewards=true", *ONLINE]),
    "RLOO (true reward)": ("rloo", ONLINE),
}
TEMPERATURES = ["DPO, beta 0.1", "Unlikelihood, alpha .5", "Preferred-FT", "PPO (true reward)", "RLOO (true reward)"]

# Tokens a second on one core of a Xeon with AVX512, fp32: drawing, a step with LoRA, and the forward of a measurement.
DRAWN, TRAINED, SCORED = 150.0, 90.0, 250.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/real/sentiment"))
    parser.add_argument("--seeds", default="0", help="numbers with commas between")
    parser.add_argument("--model", type=Path, help="a model folder; SmolLM2-135M-Instruct by default")
    parser.add_argument("--reward", help="FILE.py:FUNCTION of (prompt, response); VADER's by default")
    parser.add_argument("--tiny", action="store_true", help="a few beginnings and steps, to see that the study runs")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time, of one thread each")
    options = parser.parse_args()
    size = SIZES["tiny" if options.tiny else "default"]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    model = options.model or prepare()
    print(estimate(size, options.workers), flush=True)
    out: Path = options.out.resolve()
    for seed in seeds:
        run_seed(Study(out / f"seed-{seed}", model.resolve(), size, seed, options.reward), options.workers)
    done = {path.parent.name: json.loads(path.read_bytes()) for path in sorted(out.glob("*/figures.json"))}
    (out / "frontier.svg").write_text(plot(done), encoding="utf-8")
    print(f"{out / 'frontier.svg'}: {', '.join(done)}")


@dataclass(frozen=True, slots=True)
class Study:
    """One seed of the study: its folder, the model, and how much of everything."""

    out: Path
    model: Path
    size: Size
    seed: int
    own_reward: str | None

    @property
    def reward(self) -> str:
        """Name of the reward, as commands take it."""
        return self.own_reward or f"{self.file('vader.py')}:compound"

    def file(self, name: str) -> str:
        """Path of a file in the folder."""
        return str(self.out / name)

    def run(self, name: str) -> Path:
        """Folder of a method's run."""
        return self.out / name.translate({ord(","): None, ord(" "): "-", ord("("): None, ord(")"): None})


def run_seed(study: Study, workers: int) -> None:
    """All stages of a seed, or what is left of them."""
    out, size, model = study.out, study.size, str(study.model)
    claim(out, {"size": asdict(size), "seed": study.seed, "model": model, "reward": study.reward, "methods": METHODS})
    shutil.copy(HERE / "vader.py", out / "vader.py")  # the folder is then complete, wherever this program lies
    openings = (HERE / "openings.txt").read_text(encoding="utf-8").splitlines()
    order = [openings[index] for index in np.random.default_rng(study.seed).permutation(len(openings))]
    write_lines(out / "train.txt", order[: size.train])
    write_lines(out / "held_out.txt", order[size.train : size.train + size.held_out])
    limit = ["--max-new-tokens", str(size.new_tokens)]

    for part, draw in (("train", 2 * study.seed), ("held_out", 2 * study.seed + 1)):
        samples, ranked, pairs = (study.file(f"{part}-{what}.jsonl") for what in ("samples", "ranked", "pairs"))
        each = ["--samples", str(size.samples), "--seed", str(draw), "--batch-size", "64"]
        preftree("generate", model, study.file(f"{part}.txt"), samples, *each, *limit)
        once(Path(ranked), "data", "rank", samples, ranked, "--reward", study.reward)
        once(Path(pairs), "data", "convert", ranked, pairs, "--kind", "pair")

    preftree("ref", "build", *options_of(study, "DPO, beta 1"))
    run_all([chain(study, name) for name in METHODS], workers)

    best = ["--best-of", str(size.best_of), "--reward", study.reward, "--seed", str(100 + study.seed)]
    preftree("generate", model, study.file("held_out.txt"), study.file("best.jsonl"), *best, *limit)
    judged = ["--baseline", model, "--prompts", study.file("held_out.txt"), "--judge", study.reward, *limit]
    judged += ["--seed", str(study.seed), "--batch-size", "64", "--out", study.file("temperature")]
    compared = [str(study.run(name)) for name in TEMPERATURES]
    once(out / "temperature" / "temperature.json", "eval", "temperature", *compared, *judged)
    preftree("report", *(str(study.run(name)) for name in METHODS), "-o", study.file("report.html"))

    figures = collect(study)
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table(figures), encoding="utf-8")
    print(table(figures))


def chain(study: Study, name: str) -> Chain:
    """Train a method, and measure it along its way."""
    run, size = study.run(name), study.size
    measure = ["eval", "frontier", str(run), "--reward", study.reward, "--prompts", str(size.held_out)]
    measure += ["--samples", str(size.measured_samples), "--max-new-tokens", str(size.new_tokens)]
    training = [METHODS[name][0], *options_of(study, name)]
    return Chain(name, [training, [*measure, "--seed", str(study.seed)]], study.out / "logs" / f"{run.name}.log")


def options_of(study: Study, name: str) -> list[str]:
    """Options of a method's run. The held-out pairs are of the held-out beginnings, which all methods are asked."""
    size, (recipe, more) = study.size, METHODS[name]
    common = [f"model={study.model}", f"out={study.run(name)}", f"cache={study.file('cache')}", f"seed={study.seed}"]
    common += [f"micro_batch_tokens={size.budget}", f"eval_data={study.file('held_out-pairs.jsonl')}", *more]
    if recipe in ("ppo", "rloo"):
        drawn = [f"batch_size={size.responses}", f"max_steps={size.iterations}", f"max_new_tokens={size.new_tokens}"]
        return [*common, f"data={study.file('train.txt')}", f"reward={study.reward}", *drawn]
    ends = [f"max_response_length={size.new_tokens}", "truncation=trim_response"]
    pace = [f"batch_size={size.pairs_a_step}", f"epochs={size.epochs}"]
    return [*common, f"data={study.file('train-pairs.jsonl')}", *pace, *ends]


def collect(study: Study) -> dict[str, Any]:
    """Figures of every method: points of reward and KL with the ends of their intervals, cost, win rates."""
    out, names = study.out, {study.run(name).name: name for name in METHODS}
    curves: dict[str, dict[str, list[float]]] = {}
    for point in json.loads((out / "temperature" / "temperature.json").read_bytes())["temperature"]:
        ends = [point["value"], point["low"], point["high"]]
        curves.setdefault(names[point["name"]], {})[f"{point['temperature']:g}"] = ends
    methods: dict[str, Any] = {}
    for name in METHODS:
        folder = study.run(name)
        summary = read_summary(folder)
        assert summary is not None, "the run has finished"
        more = summary.model_extra or {}
        points = [point.model_dump(exclude_none=True) for point in read_measured(folder / "measured.json").frontier]
        methods[name] = {
            "points": points,
            "seconds": summary.training_seconds,
            "tokens": more["tokens"],
            "drawn": more["examples"] if summary.recipe in ("ppo", "rloo") else 0,
            "peak_gib": more["peak_memory_bytes"] / 2**30,
            "win_rate": curves.get(name),
        }
    methods["Best-of-N (true reward)"] = {"points": best_of_points(out / "best.jsonl"), "seconds": 0.0, "tokens": 0}
    return {"prompts": len((out / "held_out.txt").read_text(encoding="utf-8").splitlines()), "methods": methods}


def best_of_points(path: Path) -> list[dict[str, float]]:
    """Reward of the best of N = 1, 2, 4, ... samples from the rewards of all, at the upper bound of its KL."""
    rewards = np.array([row["rewards"] for row in rows(path)])
    expected = expected_best(rewards)
    points = []
    for n in [2**power for power in range(int(math.log2(rewards.shape[1])) + 1)]:
        interval = mean_interval(expected[:, n - 1])
        ends = {"reward_low": interval.low, "reward_high": interval.high, "setting": f"N = {n}"}
        points.append({"kl": math.log(n) - (n - 1) / n, "reward": interval.value, **ends})
    return points


def table(figures: dict[str, Any]) -> str:
    """One row a method: its end, its best reward within budgets of KL, win rates over temperatures, and cost."""
    budgets = (1.0, 2.0, 4.0, 8.0)
    heads = [
        "at the end",
        "reward",
        "KL, nats",
        *(f"KL ≤ {budget:g}" for budget in budgets),
        "win rate at T 0, .25, .5, .75, 1",
    ]
    lines = [
        "| " + " | ".join([*heads, "seconds", "tokens trained on", "drawn"]) + " |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for name, method in figures["methods"].items():
        last = method["points"][-1]
        cells = [name, shown(last, "reward"), shown(last, "kl")]
        for budget in budgets:
            within = [point["reward"] for point in method["points"] if point["kl"] <= budget]
            cells.append(f"{max(within):.3f}" if within else "")
        rates = method.get("win_rate") or {}
        cells.append(
            ", ".join(f"{value[0]:.2f}" for _, value in sorted(rates.items(), key=lambda item: float(item[0])))
        )
        cells += [f"{method['seconds']:.0f}", f"{method['tokens']:,}", f"{method.get('drawn', 0):,}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shown(point: dict[str, float], name: str) -> str:
    low, high = point.get(f"{name}_low"), point.get(f"{name}_high")
    return f"{point[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def estimate(size: Size, workers: int) -> str:
    """Seconds of a seed by stage, on cores as fast as those of the figures above."""
    response = size.new_tokens
    one_pass = size.train * (8 + size.samples * response)
    point = size.held_out * size.measured_samples * (response / DRAWN + 2 * (8 + response) / SCORED)
    steps = math.ceil(size.train * size.samples * (size.samples - 1) / 2 * size.epochs / size.pairs_a_step)
    points = 3 + math.floor(math.log(max(steps, 1), 4))
    online = size.iterations * size.responses * (response / DRAWN + 2 * (8 + response) / SCORED)
    parts = {
        "samples": (size.train + size.held_out) * size.samples * response / DRAWN,
        "DPO and Unlikelihood": 5 * size.epochs * one_pass / TRAINED + one_pass / SCORED,
        "Preferred-FT": size.epochs * one_pass / TRAINED,
        "PPO": online + 2 * size.iterations * size.responses * response / TRAINED,
        "RLOO": online + size.iterations * size.responses * response / TRAINED,
        "frontier": len(METHODS) * points * point,
        "Best-of-N": size.held_out * size.best_of * response / DRAWN,
        "temperatures": (5 * len(TEMPERATURES) + 1) * size.held_out * response / DRAWN,
    }
    text = ", ".join(f"{name} {seconds / 60:.0f}" for name, seconds in parts.items())
    total = sum(parts.values()) / 60
    return f"a seed: about {total:.0f} minutes of one core ({text}), {total / workers:.0f} with {workers}"


if __name__ == "__main__":
    one_sentence(main)

"""One run of a method of the demo: training, figures at its snapshots, and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftree.config.load import check_config
from preftree.config.recipes import RECIPES
from preftree.demo.plan import DemoPlan, Method
from preftree.demo.stages import SeedStart, finish_run, on_file, on_pairs
from preftree.evaluate.frontier import trace, world_meter
from preftree.models.load import load_tokenizer
from preftree.run_folder.measured_file import Point, write_measured
from preftree.run_folder.reader import read_run
from preftree.worlds.grammar import World
from preftree.worlds.sentiment import WORLDS


@dataclass(frozen=True, slots=True)
class DemoRun:
    """One run of a method."""

    plan: DemoPlan
    start: SeedStart
    method: Method
    value: float | None

    @property
    def name(self) -> str:
        """Name of its folder: `dpo-adamw-beta1`."""
        name = self.method.name.replace("_", "-")
        return name if self.value is None else f"{name}-{self.option}{self.value:g}"

    @property
    def option(self) -> str:
        """Name of the varied option, without its section."""
        return self.method.option.rpartition(".")[2]

    @property
    def setting(self) -> str | None:
        """The varied option with its value, to show; None where nothing is varied."""
        return None if self.value is None else f"{self.option} {self.value:g}"

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.start.folder / self.name


@dataclass(frozen=True, slots=True)
class Result:
    """A run that has ended.

    Attributes:
      points: Exact figures at its snapshots and its end; `seconds` of each is what the run had cost by then, its reward
        model included.
      seconds: CPU seconds of the run, without its reward model and without the measuring.
      state: Bytes a parameter of weights, gradients and optimiser states of all models together, fp32.
      samples: Number of responses drawn.
      tokens: Number of tokens computed in training.
      models: Number of models in memory.
    """

    points: Sequence[Point]
    seconds: float
    state: int
    samples: int
    tokens: int
    models: int


def run_demo(job: DemoRun) -> Result:
    """Train, and measure at every snapshot, or what is left of it.

    Raises:
      UserError: the run failed.
      Stopped: a signal stopped it.
    """
    world, start = WORLDS[job.plan.world], job.start
    recipe = RECIPES[job.method.recipe]
    seconds = finish_run(check_config(recipe.config, _options(job, world)))
    run = read_run(job.folder)
    known = run.measured
    if not known.frontier:
        meter = world_meter(world, load_tokenizer(start.model), start.outcomes, start.held_out)
        beta = job.value if job.option == "beta" else None
        points = trace(job.folder, meter, beta=beta, seed=start.seed, first=job.plan.first)
        before = start.reward_seconds if job.method.reward == "model" else 0.0
        steps = {row["step"]: row["seconds"] for row in run.rows if "seconds" in row and "split" not in row}
        rate = seconds / max(steps.values())  # CPU seconds to one of the run's clock, which saw other runs as well
        setting = {} if job.setting is None else {"setting": job.setting}
        costs = [{"seconds": round(before + rate * steps[point.step], 3), **setting} for point in points]
        timed = (point.model_copy(update=cost) for point, cost in zip(points, costs, strict=True))
        known = known.model_copy(update={"frontier": tuple(timed)})
        write_measured(job.folder / "measured.json", known)
    return Result(
        known.frontier,
        seconds,
        _state(job),
        run.summary["examples"] if recipe.samples else 0,
        run.summary["tokens"],
        run.summary.get("models_in_memory", 1) + (job.method.reward == "model"),
    )


def _state(job: DemoRun) -> int:
    """4 bytes each of weights, gradients and every moment of the optimiser; frozen models have weights alone."""
    trained = 8 + 4 * {"adamw": 2, "rmsprop": 1}[str(job.method.options.get("optimizer", "adamw"))]
    recipe = RECIPES[job.method.recipe]
    if not recipe.samples:
        return trained  # the reference is a table
    policy_and_critic = 2 if "critic" in recipe.config.model_fields else 1
    return policy_and_critic * trained + 4 + 4 * (job.method.reward == "model")


def _options(job: DemoRun, world: World) -> dict[str, Any]:
    """All options of a run."""
    plan, method, start = job.plan, job.method, job.start
    options = {"model": str(start.model), "snapshots": plan.snapshots}
    if method.reward is None:
        options |= on_pairs(start.folder, world, "pairs.jsonl", job.name, start.seed)
        options |= {"batch_size": plan.batch_size, "max_steps": plan.steps}
        if RECIPES[method.recipe].reads == "preferences":
            held_out = str(start.folder / "held_out.jsonl")
            options |= {"eval_data": held_out, "eval_every": max(1, plan.steps // 3)}
    else:
        options |= on_file(start.folder, start.folder / "prompts.txt", job.name, start.seed)
        scored_by = f"world:{world.name}" if method.reward == "world" else str(start.folder / "rm")
        options |= {"reward": scored_by, "max_new_tokens": world.max_words}
    options |= method.options
    room, _, option = method.option.rpartition(".")
    if job.value is not None and room:
        options[room] = {**options[room], option: job.value}
    elif job.value is not None:
        options[option] = job.value
    return options

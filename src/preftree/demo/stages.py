"""The demo's stages: corpus -> SFT -> sampled, labelled pairs -> training -> exact figures; all through files.

The functions run in a process pool (runtime/process_pool.py): their arguments and results are pickled.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.config.load import AnyConfig, check_config
from preftree.config.recipes import RECIPES
from preftree.data.rows.conversion import to_row
from preftree.demo.plan import HELD_OUT_PROMPTS, LABELLER, RESPONSES_PER_PROMPT, DemoPlan
from preftree.errors import ConfigError
from preftree.evaluate.in_memory.after_training import run_recipe
from preftree.generate.hf import Generation, Sampling, generate
from preftree.models.load import load_model, load_tokenizer
from preftree.models.write_folder import save_model
from preftree.records import Preference, Record
from preftree.run_folder.summary_file import read_summary
from preftree.runtime.logs import quiet_transformers
from preftree.runtime.signals import Stopped
from preftree.storage.atomic import write_result
from preftree.storage.json_file import read_json, sealed_json
from preftree.storage.lock import MARK
from preftree.storage.own_folder import own_folder
from preftree.worlds.exact import Outcomes, Table, kl_and_reward
from preftree.worlds.grammar import World, draw_corpus, reward_table
from preftree.worlds.sentiment import WORLDS, build_model, build_tokenizer, label_samples, weigh_repeats
from preftree.worlds.walk import walk_outcomes

AGAIN = "fix that and give the same command again, which continues there"
"""Advice where the disk takes a file of a demo no more."""

DRAWS = {"corpus": 0, "model": 0, "samples": 1, "labels": 2, "held-out samples": 3, "held-out labels": 4, "texts": 5}
"""Numbers of the demo's draws; seed k of the plan adds 10 k, so no two seeds share one."""


def claim(out: Path, plan: DemoPlan) -> None:
    """Take a reserved folder, or see that it holds the same demo, whose finished parts then count as done.

    Raises:
      ConfigError: `out` holds something else, or a demo of another plan.
      DataError: `out` cannot be written.
    """
    wanted = json.dumps({"plan": asdict(plan), "draws": DRAWS}, indent=1) + "\n"
    path = out / "plan.json"
    if path.exists():
        if path.read_text(encoding="utf-8") != wanted:
            raise ConfigError(f"{out} holds a demo of another plan (see {path}); choose another --out")
    elif any(path.name != MARK for path in out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no demo; choose another --out")
    else:
        write_result(path, wanted, advice=AGAIN)


@dataclass(frozen=True, slots=True)
class SeedStart:
    """Start of the methods of a seed.

    Attributes:
      seed: Seed of all its draws.
      folder: Folder of its files; `sft/model`, `pairs.jsonl`, `held_out.jsonl`, `prompts.txt`, `rm` among them.
      counts: Numbers of pairs.
      held_out: Pairs that no method is trained on.
      outcomes: The fine-tuned model over the world.
      reward: Its expected true reward.
      reward_seconds: CPU seconds of training the reward model.
      sft_seconds: CPU seconds of fine-tuning.
    """

    seed: int
    folder: Path
    counts: Mapping[str, int]
    held_out: Sequence[Preference]
    outcomes: Outcomes
    reward: float
    reward_seconds: float
    sft_seconds: float

    @property
    def ref_logps(self) -> Table:
        """The fine-tuned model's log-probs of every outcome."""
        return self.outcomes.logps

    @property
    def model(self) -> Path:
        """The fine-tuned model."""
        return self.folder / "sft" / "model"


def quiet() -> None:
    """Set up a process of one run: one thread, and a log of warnings alone."""
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    logging.getLogger("preftree").setLevel(logging.WARNING)
    quiet_transformers()
    torch.set_num_threads(1)  # the model is so small that threads would only wait for one another


def prepare_seed(task: tuple[DemoPlan, int, Path]) -> SeedStart:
    """Fine-tune, sample, label, and train the reward model of a seed, or what is left of it.

    Raises:
      UserError: a run failed.
      Stopped: a signal stopped one.
    """
    plan, seed, out = task
    world = WORLDS[plan.world]
    sft_seconds = _fine_tune(out, plan, world, seed)
    sft = out / "sft" / "model"
    tokenizer, reference = load_tokenizer(sft), load_model(sft)
    outcomes = walk_outcomes(reference, tokenizer, world)
    counts, held_out = _collect(out, plan, world, reference, tokenizer, seed)
    write_result(out / "prompts.txt", "".join(f"{prompt}\n" for prompt in world.prompts), advice=AGAIN)
    spent = 0.0
    if plan.reward_steps:
        options = on_pairs(out, world, "pairs.jsonl", "rm", seed) | {"model": str(sft)}
        options |= {"lr": 1e-3, "schedule": "cosine", "batch_size": plan.batch_size, "max_steps": plan.reward_steps}
        spent = finish_run(check_config(RECIPES["reward"].config, options))
    reward = kl_and_reward(outcomes.logps, outcomes.logps, reward_table(world)).reward
    return SeedStart(seed, out, counts, held_out, outcomes, reward, spent, sft_seconds)


class _Cost(BaseModel):
    """Schema of cost.json: CPU seconds of a run, whether it is under way, and whether an attempt's cost was lost."""

    seconds: float = 0.0
    open: bool = False
    lost: bool = False


def finish_run(config: AnyConfig) -> float:
    """Start or resume a run, until its end; returns the CPU seconds that it has cost, which its folder keeps.

    Where an earlier attempt was killed, its cost is not known, and the run's own clock counts instead.

    Raises:
      UserError: the run failed.
      Stopped: a signal stopped it.
    """
    out = Path(config.out)
    cost = out / "cost.json"
    known = read_json(cost, _Cost, "delete it") if cost.exists() else _Cost()
    if (out / "summary.json").exists() and not known.open:
        run_recipe(config)  # which sees that it is the same run
        return known.seconds
    lost = known.lost or known.open
    with own_folder(out):
        write_result(cost, sealed_json({"seconds": known.seconds, "open": True, "lost": lost}), advice=AGAIN)
    began = time.process_time()
    outcome = run_recipe(config)
    seconds = known.seconds + time.process_time() - began
    if lost and not outcome.signum and (summary := read_summary(out)) is not None:
        seconds = max(seconds, summary.training_seconds)
    write_result(cost, sealed_json({"seconds": seconds, "open": False, "lost": lost}), advice=AGAIN)
    if outcome.signum:
        raise Stopped(outcome.signum)
    return seconds


def on_pairs(out: Path, world: World, data: str, folder: str, seed: int) -> dict[str, Any]:
    """Options of a run on texts or pairs; cut at `max_words`, a response is what the world says it is."""
    return on_file(out, out / data, folder, seed) | {
        "data": {"path": str(out / data), "order": "example"},
        "max_response_length": world.max_words,
        "truncation": "trim_response",
        "warmup_steps": 20,
    }


def on_file(out: Path, data: Path, folder: str, seed: int) -> dict[str, Any]:
    """Options of every run."""
    return {"data": str(data), "out": str(out / folder), "cache": str(out / "cache"), "threads": 1, "seed": seed}


def _fine_tune(out: Path, plan: DemoPlan, world: World, seed: int) -> float:
    """Write the corpus and an untrained model, and run SFT into `sft`; CPU seconds of it."""
    tokenizer = build_tokenizer()
    if not (out / "model").exists():
        card = "# An untrained model of the demo\n"
        save_model(build_model(tokenizer, draw_of("model", seed)), tokenizer, out / "model", card=card)
    write_rows(out / "corpus.jsonl", weigh_repeats(draw_corpus(world, plan.texts, draw_of("corpus", seed))))
    options = on_pairs(out, world, "corpus.jsonl", "sft", seed) | {"model": str(out / "model")}
    options |= {"lr": 1e-2, "schedule": "cosine", "batch_size": 64, "max_steps": plan.sft_steps}
    return finish_run(check_config(RECIPES["sft"].config, options))


def _collect(
    out: Path, plan: DemoPlan, world: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[dict[str, int], list[Preference]]:
    """Sample responses, label all pairs of a prompt, write pairs.jsonl and held_out.jsonl; counts, and the held-out."""
    parts = []
    for name, num, what in (("pairs", plan.prompts, ""), ("held_out", HELD_OUT_PROMPTS, "held-out ")):
        prompts = [world.prompts[index % len(world.prompts)] for index in range(num)]
        rows = [prompt for prompt in prompts for _ in range(RESPONSES_PER_PROMPT)]
        drawn = draw_responses(world, model, tokenizer, rows, draw_of(f"{what}samples", seed))
        groups = [drawn[at : at + RESPONSES_PER_PROMPT] for at in range(0, len(drawn), RESPONSES_PER_PROMPT)]
        samples = list(zip(prompts, groups, strict=True))
        pairs = label_samples(world, samples, LABELLER, draw_of(f"{what}labels", seed))
        write_rows(out / f"{name}.jsonl", pairs.preferences)
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


def draw_responses(
    world: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], seed: int
) -> list[Generation]:
    """A response to each prompt."""
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    return generate(model, tokenizer, ids, Sampling(world.max_words, seed=seed), batch_size=512)


def draw_of(what: str, seed: int) -> int:
    """The seed of a draw."""
    return DRAWS[what] + 10 * seed


def write_rows(path: Path, records: Sequence[Record]) -> None:
    """One JSON object a line."""
    write_result(path, "".join(json.dumps(to_row(record)) + "\n" for record in records), advice=AGAIN)

"""An option that is set changes the metrics, the model or the log of a run, or is refused; those of memory are a table.

Random combinations of options, and to each one option more: two runs of two steps, which must differ.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from preftree.config.load import load_config
from preftree.config.recipes import RECIPES
from preftree.errors import DataError, UserError
from preftree.train.rollouts import rollout
from support.rewards import reward_model
from support.small_runs import make_model, make_pairs, rows_of
from support.tokenizers import plain_tokenizer

ROOT = Path(__file__).parents[1]
PAIRS = int(os.environ.get("PREFTREE_OPTION_PAIRS", "300"))

RESOURCES = {
    "micro_batch_tokens": "train/test_units.py::test_every_loss_makes_the_same_step_however_it_is_cut",
    "generation_batch": "recipes/test_every_option_counts.py::test_generation_batch_is_how_many_are_sampled_at_once",
    "gradient_checkpointing": "scoring/test_recompute.py::test_memory_falls_with_the_share_and_no_bit_moves",
    "compile": "scoring/test_compiled.py::test_a_run_starts_at_its_reference_and_goes_the_same_way",
    "threads": "recipes/test_every_option_counts.py::test_threads_are_those_of_torch",
    "cache": "recipes/test_every_option_counts.py::test_the_cache_holds_tokens_and_tables",
    "resume": "train/test_resume.py::test_never_starts_over_and_says_so",
    "save_every": "train/test_resume.py::test_three_stops_in_a_row_change_no_bit",
    "keep_checkpoints": "storage/test_checkpoint.py::test_retention",
    "snapshots": "train/test_snapshots.py::test_a_run_leaves_its_weights_along_the_way",
    "answers": "evaluate/test_before_and_after.py::test_an_adapter_and_demonstrations",
    "keep_best": "train/test_steps.py::test_the_best_evaluation_keeps_its_weights",
    "stop_after": "train/test_steps.py::test_a_run_ends_after_evaluations_without_gain_and_resumes_exactly",
    "track": "trackers/test_trackers.py::test_a_run_tells_its_trackers_everything_and_goes_on_without_one_that_fails",
    "data.repeats": "trl_trainers/test_trainers.py::test_rows_come_as_often_as_in_the_data_and_in_its_order",
    "data.max_rejected": "recipes/test_every_option_counts.py::test_too_many_faults_stop_a_run",
    "lora.dropout": "config/test_load.py::test_a_wrong_option_is_one_sentence",
    "out": "recipes/test_every_option_counts.py::test_the_cache_holds_tokens_and_tables",
}
"""Options of time, memory, disk and patience, and of rows that these files lack, and the test of what each does."""

OPTIMISER: dict[str, list[str]] = {
    "seed": ["1"],
    "lr": ["3e-3"],
    "optimizer": ["adamw", "rmsprop"],
    "weight_decay": [".5"],
    "max_grad_norm": ["1e-6"],
    "schedule": ["constant", "linear"],
    "warmup_steps": ["3"],
    "warmup_from_zero": ["true"],
    "batch_size": ["8"],
    "precision": ["bf16"],
}
ADAPTER: dict[str, list[str]] = {
    "lora.r": ["2"],
    "lora.alpha": ["3.0"],
    "lora.dora": ["true"],
    "lora.rslora": ["true"],
    "lora.targets": ["q_proj"],
    "lora.new": ["true"],
}
ROWS: dict[str, list[str]] = {
    "epochs": ["1"],
    "eval_data": [".25"],
    "eval_every": ["1"],
    "max_length": ["24"],
    "max_prompt_length": ["14"],
    "max_response_length": ["9"],
    "truncation": ["trim_prompt", "trim_response"],
    "data.order": ["example", "file"],
    "data.ranking_weight": ["row"],
    "data.turns": ["all"],
}
SAMPLED: dict[str, list[str]] = {
    "epochs": ["1"],
    "eval_data": ["PROMPTS"],
    "eval_every": ["1"],
    "samples_per_prompt": ["2"],
    "minibatch_size": ["4"],
    "ppo_epochs": ["3"],
    "temperature": [".7"],
    "max_new_tokens": ["5"],
    "normalize_rewards": ["true"],
    "clip_rewards": [".05"],
    "missing_eos_penalty": ["1.0"],
    "kl_coef": [".5"],
    "kl_target": [".001"],
    "kl_horizon": ["20.0"],
    "clip": [".00001"],
    "entropy_coef": [".1"],
    "max_approx_kl": ["1e-12"],
    "reference": ["OTHER"],
}
CHOICES: dict[str, dict[str, list[str]]] = {
    "sft": OPTIMISER | ADAPTER | ROWS,
    "dpo": OPTIMISER
    | ADAPTER
    | ROWS
    | {
        "loss": ["ipo", "simpo", "bco", "kto", "{dpo: 1, sft: .5}", "rpo", "cdpo", "sampo", "rao_kupper"],
        "beta": [".7"],
        "reference": ["base", "OTHER"],
        "reference.sync_every": ["1"],
        "reference.mixup": [".3"],
        "loss.label_smoothing": [".2"],
        "loss.nll_weight": [".3"],
        "loss.shift": ["responses"],
    },
    "reward": OPTIMISER
    | ADAPTER
    | ROWS
    | {"loss": ["bradley_terry", "rao_kupper"], "loss.centring": [".2"], "head": ["zero"], "model": ["RM"]},
    "ppo": OPTIMISER
    | ADAPTER
    | SAMPLED
    | {
        "gamma": [".5"],
        "lam": [".3"],
        "vf_coef": [".7"],
        "clip_value": [".0001"],
        "critic": ["shared"],
        "critic_lr": ["3e-3"],
        "critic_start": ["RM"],
        "ptx_data": ["PAIRS"],
        "ptx_coef": ["2.0"],
        "whiten_advantages": ["false"],
    },
    "rloo": OPTIMISER
    | ADAPTER
    | SAMPLED
    | {"method": ["grpo", "dr_grpo", "dapo", "gspo", "cispo"], "clip_high": [".00002"]},
}
BASE = {"max_steps": "2", "warmup_steps": "0", "lr": "1e-2", "batch_size": "12", "threads": "1"}


LIMITS = {"max_length", "max_prompt_length", "max_response_length", "truncation"}
CLIPS = {name: {"max_approx_kl"} for name in ("clip", "clip_high", "clip_value")}
APART = {**dict.fromkeys(LIMITS, LIMITS), **CLIPS, "epochs": {"batch_size"}}
"""Options that stand without others, which would leave them nothing to do: no long row, no second update."""
TOGETHER = {"truncation": {"max_length": "24"}, "seed": {"batch_size": "8"}}
"""What others need to have something to do: rows that are too long, an order of rows."""


def beside(name: str, base: dict[str, str]) -> dict[str, str]:
    """The options to which another one is added."""
    others = {option: value for option, value in base.items() if option not in APART.get(name, set())}
    return others | TOGETHER.get(name, {})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    make_model(folder / "model")
    make_model(folder / "other", seed=1)
    make_pairs(folder / "pairs.jsonl", 12)
    shown = [{"prompt": f"{n}: plot", "completion": " good movie"} for n in range(4)]
    (folder / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    (folder / "prompts.txt").write_text("good plot ->\n1: bad\nthe movie was\nvery\n")
    (folder / "vowels.py").write_text("def vowels(prompt, response):\n    return sum(c in 'aeiou' for c in response)\n")
    reward_model(folder / "model").save_pretrained(folder / "rm")
    plain_tokenizer().save_pretrained(folder / "rm")
    return folder


def words_of(place: Path, recipe: str, options: dict[str, str], out: str) -> list[str]:
    names = {"PROMPTS": "prompts.txt", "OTHER": "other", "RM": "rm", "PAIRS": "shown.jsonl"}
    given = BASE | ({"side": "chosen"} if recipe == "sft" else {}) | {"model": str(place / "model")}
    if RECIPES[recipe].samples:
        given |= {"data": str(place / "prompts.txt"), "reward": f"{place / 'vowels.py'}:vowels"}
        given |= {"batch_size": "16", "samples_per_prompt": "4", "max_new_tokens": "4", "micro_batch_tokens": "256"}
    else:
        given |= {"data": str(place / "pairs.jsonl"), "micro_batch_tokens": "512"}
    given |= {name: str(place / names[value]) if value in names else value for name, value in options.items()}
    return [f"{name}={value}" for name, value in (given | {"out": out, "cache": str(place / "cache")}).items()]


def outcome(place: Path, recipe: str, options: dict[str, str], caplog: pytest.LogCaptureFixture) -> Any:
    """Metrics without times, the model, and the log without times, steps and the folder's name; or the refusal."""
    out = place / "runs" / str(len(list((place / "runs").glob("*")))) if (place / "runs").exists() else place / "runs/0"
    caplog.clear()
    try:
        config = load_config(RECIPES[recipe].config, words_of(place, recipe, options, str(out)))
        RECIPES[recipe].load()(config)
    except UserError as error:
        out.mkdir(parents=True, exist_ok=True)
        return str(error)
    model = {name: load_file(name) for name in sorted((out / "model").glob("*.safetensors"))}
    tensors = [(name, tensor.double().sum().item()) for part in model.values() for name, tensor in part.items()]
    said = [
        re.sub(rf"{re.escape(str(out))}|[\d.]+ s\b| \(tokenised by.*", "", line.getMessage()) for line in caplog.records
    ]
    return rows_of(out), tensors, [line for line in said if not line.startswith(("step ", "reference:"))]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", CHOICES)
def test_the_same_options_have_the_same_outcome(place: Path, caplog: pytest.LogCaptureFixture, recipe: str) -> None:
    """Otherwise the test below could not fail. An option that no condition stops, and that nothing reads, is found."""
    caplog.set_level(logging.INFO, logger="preftree")
    runs = [outcome(place, recipe, options, caplog) for options in ({}, {}, {"save_every": "7"})]
    assert not isinstance(runs[0], str)
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.slow
def test_every_option_counts(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="preftree")
    draw, done, refused, ignored = random.Random(0), 0, 0, []
    while done < PAIRS:
        recipe = draw.choice(list(CHOICES))
        choices = CHOICES[recipe]
        names = draw.sample(list(choices), draw.randint(0, 5))
        base = {name: draw.choice(choices[name]) for name in names}
        before = outcome(place, recipe, base, caplog)
        if isinstance(before, str):
            continue
        for name in draw.sample([name for name in choices if name not in base], 5):
            others = beside(name, base)
            without = before if others == base else outcome(place, recipe, others, caplog)
            if isinstance(without, str):
                continue
            options = others | {name: draw.choice(choices[name])}
            after = outcome(place, recipe, options, caplog)
            done += 1
            refused += isinstance(after, str)
            if after == without and not _is_default(place, recipe, others, name, options[name]):
                ignored.append((recipe, others, name, options[name]))
    print(f"{done} pairs, {refused} refused, {len(ignored)} ignored")
    assert ignored == []


def _is_default(place: Path, recipe: str, base: dict[str, str], name: str, value: str) -> bool:
    """Whether the option was set to what it is without being set, such as the recipe's schedule."""
    kind = RECIPES[recipe].config
    without, with_it = (
        load_config(kind, words_of(place, recipe, options, "o")).model_dump()
        for options in (base, base | {name: value})
    )
    return without == with_it


def test_every_option_is_tried_or_is_in_the_table() -> None:
    from preftree.config.help import groups_of

    told_apart = {"model", "data", "data.path", "reward", "max_steps", "side", "data.format", "data.columns"}
    not_here = {"quantize", "lora.name", "lora.modules_to_save"}  # a library, several adapters, a layer of the model
    for name, recipe in RECIPES.items():
        every = {option.name for group in groups_of(recipe) for option in group.flat() if not option.name.isupper()}
        every = {option for option in every if "OPTION" not in option}
        known = CHOICES[name].keys() | RESOURCES.keys() | told_apart | not_here
        inner = {"loss.name", "loss.weight", "lora", "reference.from"}
        assert every - known - inner == set(), name


@pytest.mark.parametrize("option", RESOURCES)
def test_the_table_names_tests_that_are_there(option: str) -> None:
    file, _, name = RESOURCES[option].partition("::")
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_threads_are_those_of_torch(place: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            words = words_of(
                place, "sft", {"threads": str(threads), "max_steps": "1"}, str(place / f"threads{threads}")
            )
            RECIPES["sft"].load()(load_config(RECIPES["sft"].config, words))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_generation_batch_is_how_many_are_sampled_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes, rows = rollout.generate, [], []

    def generate(*args: Any, **options: Any) -> Any:
        sizes.append(options["batch_size"])
        return real(*args, **options)

    monkeypatch.setattr(rollout, "generate", generate)
    for size in ("3", "64"):
        words = words_of(place, "rloo", {"generation_batch": size}, str(place / f"generation{size}"))
        RECIPES["rloo"].load()(load_config(RECIPES["rloo"].config, words))
        rows.append(rows_of(place / f"generation{size}"))
    assert sizes == [3, 3, 64, 64]
    assert [row["reward"] for row in rows[0]] == [row["reward"] for row in rows[1]]


def test_the_cache_holds_tokens_and_tables(place: Path) -> None:
    words = words_of(place, "dpo", {"max_steps": "1"}, str(place / "cached"))
    words = [f"cache={place / 'own'}" if word.startswith("cache=") else word for word in words]
    RECIPES["dpo"].load()(load_config(RECIPES["dpo"].config, words))
    assert list((place / "own").rglob("examples.arrow"))
    assert len(list((place / "own").iterdir())) >= 2
    assert (place / "cached" / "model" / "model.safetensors").exists()


def test_too_many_faults_stop_a_run(place: Path) -> None:
    (place / "odd.jsonl").write_text((place / "pairs.jsonl").read_text() + '{"prompt": "a", "chosen": "b"}\n')
    words = [*words_of(place, "dpo", {"max_steps": "1"}, str(place / "odd"))]
    words = [f"data={place / 'odd.jsonl'}" if word.startswith("data=") else word for word in words]
    with pytest.raises(DataError, match="1 of 13 rows rejected"):
        RECIPES["dpo"].load()(load_config(RECIPES["dpo"].config, words))
    RECIPES["dpo"].load()(load_config(RECIPES["dpo"].config, [*words, "data.max_rejected=.1"]))

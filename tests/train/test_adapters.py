"""Runs that train an adapter: what moves, what the reference is, what is written, and that a stop changes no bit."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from preftree.config.base import RunConfig
from preftree.config.dpo import DpoConfig
from preftree.config.load import load_config
from preftree.config.lora import LoraOptions
from preftree.errors import CheckpointError, ConfigError, ModelError, TrainingError
from preftree.evaluate.frontier import policies
from preftree.losses.registry import bind
from preftree.models.adapter_folder import find_adapter, write_adapter
from preftree.models.adapters import adapter_off, add_adapter, trained_parameters
from preftree.models.load import load_base, load_model
from preftree.reference.key import weights_digest
from preftree.runtime.ranks import Ranks
from preftree.scoring.scorer import Scorer
from preftree.storage.checkpoint import list_checkpoints, load_checkpoint
from preftree.train import policy
from preftree.train.dpo import build_reference_table, run_dpo
from preftree.train.loop import Outcome
from preftree.train.sft import run_sft
from preftree.train.step import supervised
from preftree.train.step.batch import Batch
from preftree.train.step.update import take_step
from support.adapters import auto_peft, moved
from support.examples import random_pairs
from support.models import plain_logps, tiny
from support.reference import reference_table
from support.rounding import PER_TOKEN, assert_equal_but_rounding, rows_round_alone
from support.small_runs import dpo_config, make_model, make_pairs, rows_of, sft_config
from support.tasks import pair_task

ALONE = Ranks(0, 1, torch.device("cpu"))
STEPS = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 22)
    run(sft_config(folder, "sft", "lora.r=4", "max_steps=3"))
    return folder


def config_of(place: Path, out: str, *words: str) -> DpoConfig:
    base = (f"max_steps={STEPS}", "eval_data=.2", "save_every=null", "lora.r=4")
    given = {word.partition("=")[0] for word in words}
    return dpo_config(place, out, *(word for word in base if word.partition("=")[0] not in given), *words)


def run(config: RunConfig) -> Outcome:
    return run_dpo(config) if isinstance(config, DpoConfig) else run_sft(config)


@pytest.fixture(scope="module")
def straight(place: Path) -> Path:
    run(config_of(place, "straight", "snapshots=2", "lora.modules_to_save=lm_head"))
    return place / "straight"


def stop_during(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], None]:
    real = supervised.take_step

    def take_step(*args: object, **options: object) -> object:
        if options["name"] == f"step {step}":
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(supervised, "take_step", take_step)
    return lambda: monkeypatch.setattr(supervised, "take_step", real)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.safetensors")
        if path.is_file()
    }


def test_a_stopped_run_goes_on_to_the_same_bits(place: Path, straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = place / "stopped"
    words = ("snapshots=2", "lora.modules_to_save=lm_head")
    for step in (2, 3):
        undo = stop_during(monkeypatch, step)
        assert run(config_of(place, "stopped", *words)).signum == signal.SIGTERM
        undo()
    run(config_of(place, "stopped", *words))
    last = [list_checkpoints(one / "checkpoints")[-1].name for one in (out, straight)]
    assert last[0] == last[1]
    for part in (f"checkpoints/{last[0]}", "model", "snapshots"):
        assert hashes(out / part) == hashes(straight / part)
        assert hashes(out / part)
    assert rows_of(out) == rows_of(straight)


def test_only_the_adapter_is_kept(place: Path, straight: Path) -> None:
    loaded = load_checkpoint(straight / "checkpoints")
    assert loaded is not None
    names = loaded.state.tensors["model"].keys()
    assert all("lora_" in name or "modules_to_save" in name for name in names)
    assert {name.rpartition("/")[0] for name in loaded.state.tensors["optimizer"]} == names
    size = sum(path.stat().st_size for path in (straight / "model").glob("*.safetensors"))
    assert sorted(path.name for path in (straight / "model").glob("*.safetensors")) == ["adapter_model.safetensors"]
    assert size < (place / "model" / "model.safetensors").stat().st_size


def test_the_base_keeps_every_byte(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[policy.Policy] = []

    def load(*args: object) -> policy.Policy:
        seen.append(policy.load_policy(*args))  # pyright: ignore[reportArgumentType]
        return seen[-1]

    monkeypatch.setattr("preftree.train.open_run.load_policy", load)
    run(config_of(place, "bytes"))
    model = seen[0].scorer.model
    untouched = load_base(place / "model").state_dict()
    after = {
        name.replace(".base_layer", ""): value for name, value in model.state_dict().items() if "lora_" not in name
    }
    assert after.keys() == untouched.keys()
    assert all(torch.equal(value, untouched[name]) for name, value in after.items())
    moving = trained_parameters(model)
    assert moving
    assert all(bool(value.abs().max() > 0) for name, value in moving.items() if "lora_B" in name)


def test_the_folder_loads_with_peft_alone(place: Path, straight: Path) -> None:
    rows = random_pairs(4).items
    ours, theirs = load_model(straight / "model"), auto_peft(straight / "model")
    with torch.no_grad():
        for row in rows:
            for sequence in row.sequences:
                difference = plain_logps(ours, sequence) - plain_logps(theirs, sequence)
                assert abs(float(difference)) < 1e-5 * len(sequence.ids)
                assert (
                    abs(float(plain_logps(load_base(place / "model"), sequence) - plain_logps(ours, sequence))) > 1e-3
                )


@pytest.mark.slow
def test_the_folder_loads_where_preftree_is_not(straight: Path, tmp_path: Path) -> None:
    code = (
        "import sys, peft, transformers\n"
        f"model = peft.AutoPeftModelForCausalLM.from_pretrained({str(straight / 'model')!r})\n"
        f"tokenizer = transformers.AutoTokenizer.from_pretrained({str(straight / 'model')!r})\n"
        "ids = tokenizer('a good plot', return_tensors='pt').input_ids\n"
        "print(float(model(input_ids=ids).logits.sum()))\n"
        "assert not any('preftree' in name for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    model, tokenizer = load_model(straight / "model"), policy.load_tokenizer(straight / "model")
    ids = torch.tensor([tokenizer("a good plot")["input_ids"]])
    assert float(done.stdout) == pytest.approx(float(model(input_ids=ids).logits.sum()), rel=1e-5)


def test_snapshots_are_policies(place: Path, straight: Path) -> None:
    (pair, *_) = random_pairs(1).items
    sequence = pair.sequences[0]
    with torch.no_grad():
        values = {step: float(plain_logps(model, sequence)) for step, model in policies(straight)}
        last = float(plain_logps(load_model(straight / "model"), sequence))
        start = float(plain_logps(load_model(place / "model"), sequence))
    assert list(values) == [1, 2, 4, STEPS]
    assert values[STEPS] == last
    assert len({start, *values.values()}) == 5


# The reference


def test_without_its_adapter_the_policy_is_its_reference(place: Path, tmp_path: Path) -> None:
    """To the last bit in the same forward; in the table's packing too where rows round alone, else within rounding."""
    store = random_pairs(8)
    model = tiny("llama")
    plain = Scorer(tiny("llama"))
    table = reference_table(tmp_path, plain, store, budget=256)
    add_adapter(model, LoraOptions(r=4).filled(), seed=0)
    moved(model)
    scorer = Scorer(model)
    assert scorer.numeric_mode == plain.numeric_mode
    batches = [scorer.lay_out([item.sequences]) for item in store.items]
    exact = rows_round_alone(plain, *batches, plain.lay_out([item.sequences for item in store.items]))
    with torch.no_grad():
        for item, batch in zip(store.items, batches, strict=True):
            with adapter_off(model):
                off = scorer(batch)
            known = torch.from_numpy(table.gather(list(item.sequences)))
            assert torch.equal(off, plain(batch))
            assert_equal_but_rounding(off, known)
            assert torch.equal(off, known) or not exact
            assert (off - scorer(batch)).abs().max() > 100 * PER_TOKEN


def test_a_table_serves_full_runs_and_adapters(place: Path) -> None:
    words = ("max_steps=1", f"cache={place / 'other-cache'}")
    run(dpo_config(place, "full", *words))
    for reference in ("start", "base"):
        config = dpo_config(place, "never", *words, "lora.r=4", f"reference={reference}")
        report = build_reference_table(config)
        assert (report.num_scored, report.num_forwards) == (0, 0)


def summary_of(out: Path) -> dict[str, object]:
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize(
    ("words", "loss_is_ln2", "policy_is", "reference_is"),
    [
        (["lora={}"], True, "{base} with adapter {sft}", "start: {base} with adapter {sft}"),
        (["lora.r=4"], True, "{base} with adapter {sft}", "start: {base} with adapter {sft}"),
        (
            ["lora={}", "reference=base"],
            False,
            "{base} with adapter {sft}",
            "base: {base}, the model under the adapter",
        ),
        (["lora={}", "reference={base}"], False, "{base} with adapter {sft}", "{base}"),
        (["lora={}", "reference={sft}"], True, "{base} with adapter {sft}", "{sft}"),
        ([], True, "{base} with adapter {sft} merged into it", "start: {base} with adapter {sft} merged into it"),
        (
            ["reference=base"],
            False,
            "{base} with adapter {sft} merged into it",
            "base: {base}, the model under the adapter",
        ),
        (
            ["lora.new=true"],
            True,
            "{base} with adapter {sft} merged into it, under a new adapter",
            "start: {base} with adapter {sft} merged into it",
        ),
    ],
)
def test_what_the_reference_is_when_a_run_starts_from_an_adapter(
    place: Path,
    caplog: pytest.LogCaptureFixture,
    words: list[str],
    loss_is_ln2: bool,
    policy_is: str,
    reference_is: str,
) -> None:
    caplog.set_level("INFO", "preftree")
    names = {"base": str(place / "model"), "sft": str(place / "sft" / "model")}
    out = "-".join(["from", *words]).replace("/", "_").replace("=", "_")
    given = [word.format(**names) if "reference" in word else word for word in words]
    run(dpo_config(place, out, f"model={names['sft']}", "max_steps=2", *given))
    first = rows_of(place / out)[0]
    assert (abs(float(first["loss"]) - 0.6931471805599453) < 1e-6) == loss_is_ln2
    summary = summary_of(place / out)
    assert summary["policy"] == policy_is.format(**names)
    assert summary["reference"] == reference_is.format(**names)
    assert f"| reference | {summary['reference']} |" in (place / out / "model" / "README.md").read_text()
    gated = reference_is.startswith("start")
    assert ("policy equals reference" in caplog.text) == gated
    assert ("not compared with the reference: it is" in caplog.text) == (not gated)


def test_the_bare_base_in_place_of_the_start_is_caught(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: `disable_adapter` as the reference of a policy that came with an adapter."""

    def bare(config: DpoConfig, own: policy.Policy, *rest: object) -> policy.ReferenceModel:
        found = policy.find_reference(config, own, *rest)  # pyright: ignore[reportArgumentType]
        return replace(found, weights=own.base_weights, without_adapter=True)

    monkeypatch.setattr("preftree.train.dpo.find_reference", bare)
    with pytest.raises(TrainingError, match="before the first step the policy differs from its reference by"):
        run(dpo_config(place, "trapped", f"model={place / 'sft' / 'model'}", "lora={}", "max_steps=1"))


@pytest.mark.parametrize("words", [("precision=bf16", "gradient_checkpointing=true"), ("lora.dora=true",)])
def test_runs_of_other_kinds_begin_at_ln_2_and_learn(place: Path, words: tuple[str, ...]) -> None:
    run(config_of(place, words[0].replace("=", "-"), "eval_data=null", *words))
    losses = [float(row["loss"]) for row in rows_of(place / words[0].replace("=", "-"))]
    assert losses[0] == pytest.approx(0.6931471805599453, abs=1e-5)
    assert losses[-1] < 0.66


def test_bases_have_one_digest_whatever_is_on_them(place: Path) -> None:
    sft = place / "sft" / "model"
    base = weights_digest(place / "model", memo=place / "cache")
    found = {
        name: policy.load_policy(config, ALONE)
        for name, config in {
            "whole": dpo_config(place, "x"),
            "fresh": dpo_config(place, "x", "lora.r=4"),
            "on": dpo_config(place, "x", f"model={sft}", "lora={}"),
            "merged": dpo_config(place, "x", f"model={sft}"),
            "new": dpo_config(place, "x", f"model={sft}", "lora.new=true"),
        }.items()
    }
    assert {one.base_weights for one in found.values()} == {base}
    weights = {name: one.weights for name, one in found.items()}
    assert weights["whole"] == weights["fresh"] == base
    assert weights["merged"] == weights["new"]
    assert len(set(weights.values())) == 3


def test_a_new_adapter_over_a_merged_one_brings_its_base(place: Path) -> None:
    run(dpo_config(place, "newer", f"model={place / 'sft' / 'model'}", "lora.new=true", "lora.r=2", "max_steps=2"))
    adapter = find_adapter(place / "newer" / "model")
    assert adapter is not None and adapter.base == str(place / "newer" / "base")
    merged = policy.load_policy(dpo_config(place, "x", f"model={place / 'sft' / 'model'}"), ALONE).scorer.model
    stored = load_base(place / "newer" / "base").state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in merged.state_dict().items())
    auto_peft(place / "newer" / "model")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lora.r=8",), "lora.r=8 is not that of adapter"),
        (("lora.dora=true",), "lora.dora=True is not that of adapter"),
        (("lora.targets=q_proj",), "is not that of adapter"),
        (("lora.name=other",), "holds no adapter 'other', it holds default"),
        (("lora.new=true", "quantize=nf4"), "quantize=nf4 needs bitsandbytes, which is not installed"),
    ],
)
def test_options_that_do_not_fit_the_adapter(place: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises((ConfigError, ModelError)) as caught:
        run(dpo_config(place, "refused", f"model={place / 'sft' / 'model'}", *words))
    assert said in str(caught.value)


def test_base_means_nothing_without_an_adapter(place: Path) -> None:
    with pytest.raises(ConfigError, match="reference=base is the model under an adapter, and neither is"):
        run(dpo_config(place, "refused", "reference=base"))


def test_the_settled_options_start_the_same_run(place: Path, straight: Path) -> None:
    sft = place / "sft" / "model"
    run(dpo_config(place, "again", f"model={sft}", "lora={}", "max_steps=2"))
    stored = (place / "again" / "config.yaml").read_text()
    assert "r: 4\n" in stored and "alpha: 32.0\n" in stored
    before = hashes(place / "again" / "model")
    run(load_config(DpoConfig, [str(place / "again" / "config.yaml")]))  # finished: nothing to do
    assert hashes(place / "again" / "model") == before


def test_another_adapter_is_another_run(place: Path, straight: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lora\.r was 4, is 2"):
        run(config_of(place, "straight", "snapshots=2", "lora.modules_to_save=lm_head", "lora.r=2"))


def test_the_others_of_several_adapters_stay_as_they_are(place: Path, tmp_path: Path) -> None:
    several = tmp_path / "several"
    for seed, name in enumerate((".", "polite", "rude")):
        model = load_base(place / "model")
        add_adapter(model, LoraOptions(r=2).filled(), seed=seed)
        moved(model, seed=seed)
        (several / name).mkdir(parents=True, exist_ok=True)
        write_adapter(model, str(place / "model"), several / name)
    load = policy.load_tokenizer(place / "model")
    load.save_pretrained(several)
    run(dpo_config(place, "polite", f"model={several}", "lora.name=polite", "max_steps=2"))
    before, after = hashes(several), hashes(place / "polite" / "model")
    assert after["rude/adapter_model.safetensors"] == before["rude/adapter_model.safetensors"]
    assert after["default/adapter_model.safetensors"] == before["adapter_model.safetensors"]
    assert after["adapter_model.safetensors"] not in before.values()
    assert summary_of(place / "polite")["policy"] == f"{place / 'model'} with adapter {several / 'polite'}"


# A loop written by hand


@pytest.mark.parametrize("options", [{}, {"dora": True}, {"rslora": True}], ids=["lora", "dora", "rslora"])
def test_three_dpo_steps_equal_a_loop_around_peft(tmp_path: Path, options: dict) -> None:
    from peft import LoraConfig, get_peft_model

    store = random_pairs(12, weighted=True)
    ours, base = (tiny("gpt2", dtype=torch.float64, scale=2.0) for _ in range(2))
    reference = tiny("gpt2", dtype=torch.float64, scale=2.0)
    add_adapter(ours, LoraOptions(r=3, alpha=6.0, **options).filled(), seed=0)
    kinds = {"use_dora": bool(options.get("dora")), "use_rslora": bool(options.get("rslora"))}
    names = ["c_attn", "c_proj", "c_fc"]
    setting = LoraConfig(r=3, lora_alpha=6, target_modules=names, fan_in_fan_out=True, **kinds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by old names
        theirs = get_peft_model(base, setting)
    parameters = trained_parameters(theirs)
    with torch.no_grad():
        for name, parameter in trained_parameters(ours).items():
            parameters[f"base_model.model.{name}"].copy_(parameter)
    assert len(parameters) == len(trained_parameters(ours))

    scorer = Scorer(ours)
    table = reference_table(tmp_path, Scorer(tiny("gpt2", dtype=torch.float64, scale=2.0)), store)
    task = pair_task(bind("dpo", {"beta": 0.3}), table)
    mine = torch.optim.AdamW(trained_parameters(ours).values(), lr=1e-2, weight_decay=0.0)
    other = torch.optim.AdamW(parameters.values(), lr=1e-2, weight_decay=0.0)
    for step in range(3):
        rows = np.arange(4 * step, 4 * step + 4)
        loss = total = torch.zeros((), dtype=torch.float64)
        for row in rows.tolist():
            chosen, rejected = store[row].sequences
            with torch.no_grad():
                gap = plain_logps(reference, chosen) - plain_logps(reference, rejected)
            delta = plain_logps(theirs, chosen) - plain_logps(theirs, rejected) - gap  # pyright: ignore[reportArgumentType]
            loss = loss - store[row].weight * logsigmoid(0.3 * delta)
            total = total + store[row].weight
        (loss / total).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 0.5)
        other.step()
        other.zero_grad()
        result = take_step(Batch(task, store, rows), scorer, mine, budget=64, max_grad_norm=0.5, ranks=ALONE)
        assert task.figures(result.columns, store, rows)["loss"] == pytest.approx(
            float((loss / total).detach()), abs=1e-10
        )
        for name, parameter in trained_parameters(ours).items():
            assert (parameter - parameters[f"base_model.model.{name}"]).abs().max() < 1e-9, name


def test_merging_a_stored_adapter_needs_one(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.new counts only with a model folder that holds an adapter"):
        run(sft_config(place, "never", "lora.new=true"))

"""`preftree configs from`: six configurations in the style of three tools become ours and start, or say why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from preftree.cli.configs import app
from preftree.config.load import load_config
from preftree.config.recipes import RECIPES
from preftree.config.yaml import read_yaml_file
from preftree.errors import ConfigError
from preftree.evaluate.in_memory.after_training import run_recipe
from preftree.other_tools.recognise import convert_config
from support.small_runs import make_model

FILES = Path(__file__).parent / "files"
STARTED = {
    "trl-dpo": "dpo",
    "trl-sft": "sft",
    "llama-factory-dpo": "dpo",
    "llama-factory-sft": "sft",
    "axolotl-dpo": "dpo",
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files beside a model and the data that they name."""
    monkeypatch.setenv("PREFTREE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    model = make_model(tmp_path / "model")
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*.yaml"):
        path.write_text(path.read_text().replace("MODEL", str(model)))
    pairs = [{"prompt": f"{n} is", "chosen": f" good {n}", "rejected": " bad"} for n in range(8)]
    named = [dict(zip(("question", "better", "worse"), row.values(), strict=True)) for row in pairs]
    shown = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    for name, rows in (("pairs.jsonl", pairs), ("shown.jsonl", shown)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "data" / "pairs.json").write_text(json.dumps(named))
    (tmp_path / "data" / "answers.json").write_text(json.dumps(shown))
    return tmp_path


@pytest.mark.parametrize("name", STARTED)
def test_a_configuration_becomes_ours_and_starts(name: str, place: Path) -> None:
    result = CliRunner().invoke(app, ["from", f"{name}.yaml"])
    assert result.exit_code == 0, result.output
    Path("ours.yaml").write_text(result.output)
    config = load_config(RECIPES[STARTED[name]].config, ["ours.yaml"])
    assert run_recipe(config).progress.step == 1
    assert (place / "out" / "model").is_dir()
    options, _ = read_yaml_file(Path(f"{name}.yaml"))
    for key in options:  # each key is an option, or is named in a comment
        assert key in _READ or f"#   {key}: " in result.output, key


_READ = frozenset(
    (
        *("model_name_or_path", "base_model", "dataset_name", "dataset", "dataset_dir", "datasets", "output_dir"),
        *("learning_rate", "num_train_epochs", "num_epochs", "gradient_accumulation_steps", "micro_batch_size"),
        *("per_device_train_batch_size", "lr_scheduler_type", "lr_scheduler", "optimizer", "warmup_ratio"),
        *("warmup_steps", "weight_decay", "beta", "loss_type", "max_length", "max_steps", "use_peft", "adapter", "rl"),
        *("lora_r", "lora_rank", "lora_alpha", "lora_target", "lora_target_linear", "lora_dropout", "bf16"),
        *("gradient_checkpointing", "stage", "finetuning_type", "pref_beta", "pref_loss", "cutoff_len", "save_steps"),
        *("sequence_len", "val_size", "val_set_size"),
    )
)


def test_values_are_theirs(place: Path) -> None:
    Path("ours.yaml").write_text(convert_config(Path("trl-dpo.yaml")))
    config = load_config(RECIPES["dpo"].config, ["ours.yaml"])
    assert (config.lr, config.batch_size, config.schedule, config.warmup_steps) == (5e-7, 8, "cosine", 0.1)
    assert config.loss.options == {"beta": 0.05} and config.warmup_from_zero and config.seed == 42
    assert (config.lora.r, config.lora.alpha, config.max_length) == (8, 16.0, 512)
    assert (config.data.order, config.data.repeats, config.truncation) == ("example", "keep", "trim_response")
    text = Path("ours.yaml").read_text()
    assert "#   our_own_note: second try - not known as a key of TRL" in text
    assert "#   dataset_num_proc: 4 - rows are tokenised once" in text
    Path("ours.yaml").write_text(convert_config(Path("llama-factory-dpo.yaml")))
    config = load_config(RECIPES["dpo"].config, ["ours.yaml"])
    assert config.data.columns == {"prompt": "question", "chosen": "better", "rejected": "worse"}
    assert (config.lora.r, config.lora.alpha, config.lora.targets) == (8, 16.0, "all-linear")
    Path("ours.yaml").write_text(convert_config(Path("axolotl-dpo.yaml")))
    config = load_config(RECIPES["dpo"].config, ["ours.yaml"])
    assert (config.batch_size, config.eval_data, config.lr, config.precision) == (4, 0.25, 2e-4, "fp32")


def test_what_cannot_be_run_is_one_sentence(place: Path) -> None:
    with pytest.raises(ConfigError, match="this configuration of axolotl has no counterpart: rl=grpo; there are dpo"):
        convert_config(Path("axolotl-grpo.yaml"))
    Path("odd.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"odd.yaml is no configuration of TRL"):
        convert_config(Path("odd.yaml"))
    for text, sentence in (
        ("stage: ppo\nmodel_name_or_path: m\n", "stage=ppo; there are sft"),
        (
            "stage: dpo\nmodel_name_or_path: m\ndataset: nothing\ndataset_dir: data\n",
            "does not describe dataset=nothing",
        ),
        ("stage: dpo\nmodel_name_or_path: m\ndataset: a, b\n", "dataset names 2 data sets"),
        ("model_name_or_path: m\ndataset_name: d\nloss_type: sft\n", "loss_type='sft' is a mean"),
        ("model_name_or_path: m\ndataset_name: d\nlearning_rate: fast\n", "a value cannot be read"),
        ("base_model: m\nadapter: ia3\ndatasets: [{path: d}]\n", "adapter=ia3; there are lora"),
    ):
        Path("odd.yaml").write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            convert_config(Path("odd.yaml"))


def converted(place: Path, **keys: object) -> dict[str, Any]:
    """Our options of a TRL file with a few keys more."""
    base: dict[str, Any] = {"model_name_or_path": str(place / "model"), "dataset_name": "pairs.jsonl"}
    Path("theirs.yaml").write_text("".join(f"{name}: {value}\n" for name, value in (base | keys).items()))
    Path("ours.yaml").write_text(convert_config(Path("theirs.yaml")))
    options, _ = read_yaml_file(Path("ours.yaml"))
    return dict(options)


def test_no_and_off_are_false_as_in_the_tools(place: Path) -> None:
    options = converted(place, load_in_4bit="no", gradient_checkpointing="off", use_peft="no")
    assert "quantize" not in options and options["gradient_checkpointing"] is False and "lora" not in options
    assert converted(place, gradient_checkpointing="yes")["gradient_checkpointing"] is True


def test_no_limit_stays_no_limit_and_evaluations_of_nothing_are_named(place: Path) -> None:
    assert converted(place, max_length="null")["max_length"] is None
    assert converted(place)["max_length"] == 1024
    assert "eval_every" not in converted(place, eval_steps=100)
    assert "#   eval_steps: 100 - nothing is held out" in Path("ours.yaml").read_text()


def test_axolotl_trains_one_epoch_under_a_cosine_where_nothing_is_said(place: Path) -> None:
    lines = [line for line in Path("axolotl-dpo.yaml").read_text().splitlines() if "epochs" not in line]
    Path("axolotl-dpo.yaml").write_text("\n".join(x for x in lines if "scheduler" not in x and "max_steps" not in x))
    text = convert_config(Path("axolotl-dpo.yaml"))
    assert "\nepochs: 1\n" in text and "\nschedule: cosine\n" in text


def test_other_widths_of_stored_weights_are_refused(place: Path) -> None:
    path = Path("llama-factory-dpo.yaml")
    path.write_text(path.read_text() + "\nquantization_bit: 2\n")
    with pytest.raises(ConfigError, match=r"quantization_bit=2; there are 4 \(nf4\) and 8 \(int8\)"):
        convert_config(path)

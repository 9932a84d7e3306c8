"""`preftree.trl`: TRL's trainers over the recipes: what runs, what the log is called, and what is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PeftModel, PrefixTuningConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainingArguments

from preftree.errors import ConfigError, DataError
from preftree.other_tools.trl_fields import DEFAULT_ONLY, READ, WITHOUT_EFFECT
from preftree.trl import (
    CPOConfig,
    CPOTrainer,
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from preftree.trl.options import schedule_of
from support.small_runs import make_model

CONFIGS = (DPOConfig, SFTConfig, RewardConfig, KTOConfig, CPOConfig)
PAIRS = [
    {"prompt": f"{number} is", "chosen": f" good {number}", "rejected": " bad" * (1 + number % 3)}
    for number in range(12)
]
SHOWN = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
LABELLED = [{**row, "label": number % 2 == 0} for number, row in enumerate(SHOWN)]
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "bf16": False,
    "logging_steps": 1,
    "report_to": "none",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("trl") / "model"))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFTREE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def rows(content: list[dict[str, Any]] = PAIRS) -> Dataset:
    return Dataset.from_list(content)


def dpo(model: Any, *, trainer: dict[str, Any] | None = None, **fields: Any) -> DPOTrainer:
    return DPOTrainer(
        model, args=DPOConfig(**{"output_dir": "run"} | COMMON | fields), **{"train_dataset": rows(), **(trainer or {})}
    )


class Heard(TrainerCallback):
    """Keeps the events that it gets."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(("begin", state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(("step", state.global_step))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.events.append((f"log of {min(logs)}", state.global_step))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.events.append((f"evaluation, {metrics['eval_loss']:.4f}", state.global_step))


def test_dpo_trains_logs_and_saves(model: str, place: Path) -> None:
    heard = Heard()
    given = {"eval_dataset": rows(PAIRS[:4]), "callbacks": [heard]}
    every_two = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 2}
    trainer = dpo(model, trainer=given, train_sampling_strategy="sequential", **every_two)
    output = trainer.train()
    assert output.global_step == trainer.state.global_step == 4
    steps = [row["loss"] for row in trainer.run.metrics if "split" not in row]
    assert output.training_loss == pytest.approx(sum(steps) / 4) == output.metrics["train_loss"]
    kinds = [(min(entry), entry["step"]) for entry in trainer.state.log_history]
    assert kinds == [("epoch", 2), ("epoch", 2), ("epoch", 4), ("epoch", 4), ("epoch", 4)]
    first, evaluation, *_ = trainer.state.log_history
    assert first["loss"] == pytest.approx((steps[0] + steps[1]) / 2)  # a mean since the last entry, as Trainer's
    assert first["learning_rate"] == pytest.approx(1e-3 * (1 - 1 / 4))  # linear, before the scheduler moves on
    wanted = {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"}
    assert wanted | {"logps/rejected", "grad_norm", "epoch", "step"} <= first.keys()
    assert {f"eval_{name}" for name in wanted} | {"eval_loss"} <= evaluation.keys()
    assert [event for event in heard.events if event[0] in ("begin", "step")] == [
        ("begin", 0),
        *(("step", step) for step in (1, 2, 3, 4)),
    ]
    assert sum(name.startswith("evaluation") for name, _ in heard.events) == 2
    assert sum(name.startswith("log") for name, _ in heard.events) == 5  # evaluations are logged too
    assert trainer.evaluate()["eval_loss"] == trainer.run.figures["loss"]
    trainer.save_model("saved")
    kept = AutoModelForCausalLM.from_pretrained("saved").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in trainer.model.state_dict().items())
    trainer.save_model()
    AutoModelForCausalLM.from_pretrained("run")
    again = dpo(model, trainer=given | {"callbacks": None}, train_sampling_strategy="sequential", **every_two)
    assert again.train().training_loss == output.training_loss  # the finished run, read again


def test_a_model_in_memory_is_trained_in_place(model: str) -> None:
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    trainer = dpo(loaded, trainer={"processing_class": tokenizer}, save_strategy="no")
    output = trainer.train()
    assert trainer.model is loaded
    trained = AutoModelForCausalLM.from_pretrained(trainer.run.model).state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in loaded.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in trained.items())
    named = dpo(model, save_strategy="no")
    named.args.output_dir = "named"
    assert named.train().training_loss == pytest.approx(output.training_loss, abs=1e-12)


def test_an_adapter_of_peft(model: str) -> None:
    trainer = dpo(model, trainer={"peft_config": LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM")})
    trainer.train()
    made = LoraConfig.from_pretrained(str(trainer.run.model))
    assert (made.r, made.lora_alpha, set(made.target_modules)) == (4, 8, {"q_proj", "v_proj"})  # peft's usual ones
    loaded = AutoModelForCausalLM.from_pretrained(model)
    wrapped = dpo(
        loaded,
        trainer={"processing_class": AutoTokenizer.from_pretrained(model), "peft_config": LoraConfig(r=4)},
        output_dir="wrapped",
        max_steps=1,
    )
    wrapped.train()
    assert isinstance(wrapped.model, PeftModel)


def test_a_reference_in_memory_and_one_that_moves(model: str, tmp_path: Path) -> None:
    other = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "other", seed=1))
    trainer = dpo(model, trainer={"ref_model": other}, max_steps=1, logging_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["rewards/chosen"] != 0  # another model than the policy's start
    moving = dpo(model, sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=1.0, logging_steps=1)
    moving.args.output_dir = "moving"
    moving.train()
    assert all(abs(entry["rewards/margins"]) < 1e-6 for entry in moving.state.log_history[:-1])  # it is the policy


def test_sft_reward_kto_and_cpo(model: str) -> None:
    texts = [{"body": row["prompt"] + row["chosen"]} for row in PAIRS]
    sft = SFTTrainer(model, SFTConfig("sft", dataset_text_field="body", **COMMON), train_dataset=rows(texts))
    assert "eval_loss" not in sft.train().metrics and sft.state.log_history[0]["loss"] > 0
    formatted = SFTTrainer(
        model,
        SFTConfig("formatted", **COMMON | {"max_steps": 1}),
        train_dataset=rows(PAIRS),
        formatting_func=lambda row: row["prompt"] + row["chosen"],
    )
    assert [row["text"] for row in formatted.rows_of(rows())] == [row["body"] for row in texts]
    reward = RewardTrainer(model, RewardConfig("rm", **COMMON), train_dataset=rows(), eval_dataset=rows(PAIRS[:4]))
    reward.train()
    assert {"accuracy", "margin", "mean_reward"} <= reward.state.log_history[0].keys()
    assert {"eval_loss", "eval_mean_reward"} <= reward.evaluate().keys()
    transformers.set_seed(42)  # transformers draws the head, as TRL has it drawn
    head = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=1).score.weight
    fresh = RewardTrainer(model, RewardConfig("rm2", **COMMON), train_dataset=rows())
    assert torch.equal(fresh.model.score.weight, head)
    kto = KTOTrainer(model, args=KTOConfig("kto", **COMMON), train_dataset=rows(LABELLED))
    kto.train()
    assert {"rewards/chosen", "rewards/rejected", "logps/chosen"} <= kto.state.log_history[0].keys()
    cpo = CPOTrainer(model, CPOConfig("cpo", loss_type="simpo", cpo_alpha=0.0, **COMMON), train_dataset=rows())
    cpo.train()
    assert cpo.run.path == Path("cpo") and "rewards/margins" in cpo.state.log_history[0]


def test_rows_come_as_often_as_in_the_data_and_in_its_order(model: str) -> None:
    doubled = [PAIRS[0], PAIRS[0], *PAIRS[:6]]
    trainer = dpo(model, trainer={"train_dataset": rows(doubled)}, num_train_epochs=2, max_steps=-1)
    trainer.args.train_sampling_strategy = "sequential"
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.run.metrics[-1]["pairs"] == 16
    per_step = [row["rejected_tokens"] for row in trainer.run.metrics]  # of 1, 1, 1, 2 and of 3, 1, 2, 3 words
    assert per_step[0] == per_step[2] != per_step[1] == per_step[3]  # the same rows in every epoch, in their order


def test_before_training_a_folder_can_be_measured(model: str) -> None:
    figures = dpo(model).evaluate(rows(PAIRS[:4]))
    assert figures["eval_loss"] == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize(
    ("warmup", "steps", "wanted"), [(0.1, 15, 2), (3, 15, 3), (0, 15, 0)], ids=["share", "number", "none"]
)
def test_the_schedule_is_that_of_transformers(warmup: float, steps: int, wanted: int) -> None:
    args = DPOConfig("run", **COMMON | {"max_steps": steps, "warmup_steps": warmup, "save_steps": 0.5})
    schedule = schedule_of(args, 100)
    assert schedule.warmup == wanted == args.get_warmup_steps(steps) and schedule.save_every == 8
    args = DPOConfig("run", **COMMON | {"max_steps": -1, "num_train_epochs": 1.5, "gradient_accumulation_steps": 2})
    assert schedule_of(args, 17).num_steps == 5  # 17 rows by 8 are 3 steps, and 4.5 are 5


def test_every_field_is_read_or_harmless_or_refused_by_name() -> None:
    parts = (READ, set(WITHOUT_EFFECT), set(DEFAULT_ONLY))
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    fields = {field.name for config in CONFIGS for field in dataclasses.fields(config)}
    fields |= {field.name for field in dataclasses.fields(TrainingArguments)}
    assert fields - parts[0] - parts[1] - parts[2] == set()
    assert (parts[0] | parts[1] | parts[2]) - fields == {"padding_value"}  # of ORPOConfig
    assert len(fields) == FIELDS, "a field came or went with transformers: sort it into other_tools/trl_fields.py"


FIELDS = 158


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_each_refused_field_is_named(config: type[Any], model: str) -> None:
    """Every field that must keep its default, set to another value: one sentence, with its name and a reason."""
    others: dict[type, Any] = {bool: True, str: "other", float: 0.25, int: 3, dict: {"a": 1}, list: ["other"]}
    skipped = {"fp16", "bf16_full_eval", "fp16_full_eval", "fsdp", "fsdp_config", "deepspeed", "parallelism_config"}
    skipped |= {"accelerator_config", "load_best_model_at_end", "torch_compile_backend", "torch_compile_mode", "debug"}
    names = [field.name for field in dataclasses.fields(config) if field.name in DEFAULT_ONLY.keys() - skipped]
    trainer = {DPOConfig: DPOTrainer, SFTConfig: SFTTrainer, RewardConfig: RewardTrainer, KTOConfig: KTOTrainer}
    for name in names:
        args = config("run", **COMMON)
        value = getattr(args, name)
        setattr(args, name, (not value) if isinstance(value, bool) else others.get(type(value), "other"))
        with pytest.raises(ConfigError, match=rf"^{name}=.* cannot be honoured: ") as caught:
            trainer.get(config, CPOTrainer)(model, args=args, train_dataset=rows())
        assert DEFAULT_ONLY[name] in str(caught.value)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"report_to": "comet_ml"}, {}, "report_to=.comet_ml. cannot be honoured"),
    ({"optim": "adafactor"}, {}, "optim='adafactor' cannot be honoured; there are adamw_torch"),
    ({"lr_scheduler_type": "polynomial"}, {}, "lr_scheduler_type='polynomial'"),
    ({"train_sampling_strategy": "group_by_length"}, {}, "train_sampling_strategy='group_by_length'"),
    ({"truncation_mode": "keep_end"}, {}, "truncation_mode='keep_end' cannot be honoured"),
    ({"loss_type": "sft"}, {}, "loss_type='sft' is a mean over the tokens of a micro-batch"),
    ({"loss_type": "exotic"}, {}, "loss_type='exotic' is none of TRL's"),
    ({"label_smoothing": 0.2}, {}, "label_smoothing=0.2 is not read by loss_type=sigmoid"),
    ({"loss_type": ["ipo"], "ld_alpha": 0.5}, {}, "ld_alpha goes with loss_type='sigmoid' alone"),
    ({"data_seed": 1}, {}, "data_seed=1 differs from seed=42"),
    ({"fp16": True, "bf16": False, "use_cpu": True}, {}, "fp16=True cannot be honoured"),
    ({"model_init_kwargs": {"revision": "x"}}, {}, r"model_init_kwargs\['revision'\] cannot be honoured"),
    ({}, {"data_collator": print}, "data_collator cannot be honoured: batches are packed trees"),
    ({}, {"compute_metrics": print}, "compute_metrics cannot be honoured"),
    ({}, {"optimizers": (torch.optim.SGD, None)}, "optimizers cannot be honoured"),
    ({}, {"quantization_config": {}}, "this quantization_config cannot be honoured"),
    ({}, {"peft_config": LoraConfig(lora_dropout=0.1)}, "lora_dropout=0.1: responses share"),
    ({}, {"peft_config": LoraConfig(bias="all")}, "bias='all' has no counterpart"),
    ({}, {"peft_config": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)}, "PrefixTuningConfig"),
    ({}, {"train_dataset": None}, "train_dataset is required"),
]


@pytest.mark.parametrize(("fields", "arguments", "sentence"), REFUSED, ids=[sentence[:40] for *_, sentence in REFUSED])
def test_what_cannot_be_honoured_is_refused(
    model: str, fields: dict[str, Any], arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        dpo(model, trainer=arguments, **fields).train()
    assert not Path("run/model").exists()


def test_data_that_is_no_list_of_texts_is_refused(model: str) -> None:
    stream = IterableDataset.from_generator(lambda: iter(PAIRS))
    for data, sentence in (
        (stream, "train_dataset is a stream"),
        ({"a": rows()}, "train_dataset holds several data sets"),
        (rows([{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}]), "rows are tokenised here"),
        (rows([{**PAIRS[0], "images": "x"}]), "images are not read"),
    ):
        with pytest.raises(DataError, match=sentence):
            dpo(model, trainer={"train_dataset": data})
    trainer = dpo(model, trainer={"train_dataset": rows([{**row, "chosen": row["rejected"]} for row in PAIRS])})
    with pytest.raises(DataError, match=r"train_dataset.*train_dataset\[0\]"):
        trainer.train()


def test_callbacks_that_cannot_be_served_are_refused(model: str) -> None:
    class Saved(TrainerCallback):
        def on_save(self, *_: Any, **__: Any) -> None: ...

    class Stops(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = True

    with pytest.raises(ConfigError, match="the callback Saved waits for on_save, which is not sent"):
        dpo(model, trainer={"callbacks": [Saved]})
    with pytest.raises(ConfigError, match=r"the callback Stops set control.should_training_stop in on_step_end"):
        dpo(model, trainer={"callbacks": [Stops()]}).train()


def test_conversations_of_sft_train_on_the_assistant_alone(model: str) -> None:
    talks = rows([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}])
    with pytest.raises(ConfigError, match="set assistant_only_loss=True"):
        SFTTrainer(model, SFTConfig("run", **COMMON), train_dataset=talks)
    for fields, data, sentence in (
        ({"completion_only_loss": False}, rows(SHOWN), "completion_only_loss=False trains on prompts too"),
        ({"packing": True}, rows(SHOWN), "packing=True cannot be honoured"),
        ({"loss_type": "dft"}, rows(SHOWN), "loss_type='dft' cannot be honoured"),
        ({"assistant_only_loss": True}, rows(SHOWN), "assistant_only_loss=True is of conversations"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            SFTTrainer(model, SFTConfig("run", **COMMON | fields), train_dataset=data)


def test_other_names_of_trl_are_refused_with_what_to_do(model: str) -> None:
    import preftree.trl

    with pytest.raises(AttributeError, match="no ORPOTrainer: TRL's ORPO trains on the prompt's likelihood too"):
        _ = preftree.trl.ORPOTrainer
    trainer = dpo(model)
    with pytest.raises(AttributeError, match=r"no DPOTrainer.accelerator; there are train"):
        _ = trainer.accelerator
    with pytest.raises(ConfigError, match="push_to_hub cannot be honoured"):
        trainer.push_to_hub()
    with pytest.raises(ConfigError, match="nothing has been trained"):
        trainer.save_model("x")


def test_turns_of_a_prompt_are_trained_on_with_assistant_only_loss_alone(model: str) -> None:
    def turn(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    prompt = [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    talk = {"prompt": prompt, "completion": [turn("assistant", "d")]}
    for assistant_only, turns in ((False, {}), (True, {"turns": "all"})):
        args = SFTConfig(**COMMON | {"output_dir": "run", "assistant_only_loss": assistant_only})
        trainer = SFTTrainer(model, args=args, train_dataset=rows([talk] * 4), processing_class=tokenizer)
        assert trainer.data_options() == turns
    args = SFTConfig(**COMMON | {"output_dir": "run"})
    two = {"prompt": prompt, "completion": [turn("assistant", "d"), turn("user", "e"), turn("assistant", "f")]}
    with pytest.raises(ConfigError, match="a completion of 3 messages would be trained on in its last one alone"):
        SFTTrainer(model, args=args, train_dataset=rows([two] * 4), processing_class=tokenizer)

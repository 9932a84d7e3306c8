"""From words and files to a configuration, and the sentence for everything that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preftree.config.dpo import DpoConfig
from preftree.config.load import changed_options, dump_config, load_config
from preftree.config.lora import LoraOptions
from preftree.config.other_names import OTHER_NAMES
from preftree.config.sft import SftConfig
from preftree.errors import ConfigError

NEEDED = ["model=m", "data=d.jsonl", "out=o"]
DPO, SFT = {"name": "dpo", "weight": 1.0}, {"name": "sft"}
DATA = {"format": None, "columns": None, "order": "prompt", "turns": "last"}
DATA |= {"ranking_weight": "pairs", "repeats": "drop", "max_rejected": 0.05}
MOVING = {"from": "x", "sync_every": 5, "mixup": 0.6}
LORA = LoraOptions().model_dump()


def dpo(*words: str) -> DpoConfig:
    return load_config(DpoConfig, [*NEEDED, *words])


def test_no_file_is_needed() -> None:
    config = dpo()
    assert (config.model, config.data.path, config.out) == ("m", "d.jsonl", "o")
    assert (config.loss.name, config.lr, config.optimizer, config.batch_size) == ("dpo", 1e-6, "rmsprop", 64)


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: other\nloss: {name: cdpo, label_smoothing: .1}\ndata: {path: a.jsonl, order: example}\nlr: 1e-5\n"
    )
    config = load_config(DpoConfig, ["lr=2e-5", str(path), "loss.label_smoothing=.2", "data=b.jsonl", "out=o"])
    assert config.model == "other"
    assert config.lr == 2e-5
    assert config.loss.options == {"label_smoothing": 0.2}
    assert (config.data.path, config.data.order) == ("b.jsonl", "example")


@pytest.mark.parametrize(
    ("file", "line", "wanted"),
    [
        # the options of a loss go where its name changes, and stay where it is the same
        ("loss: {name: ipo, tau: .3}", "loss.name=dpo", {"loss": {"name": "dpo"}}),
        ("loss: {name: ipo, tau: .3}", "loss=dpo", {"loss": {"name": "dpo"}}),
        ("loss: {name: ipo, tau: .3}", "loss=ipo", {"loss": {"name": "ipo", "tau": 0.3}}),
        ("loss: {name: ipo, tau: .3}", "loss.name=ipo", {"loss": {"name": "ipo", "tau": 0.3}}),
        ("loss: {name: ipo, tau: .3}", "loss.tau=.1", {"loss": {"name": "ipo", "tau": 0.1}}),
        ("loss: ipo", "loss.name=dpo", {"loss": {"name": "dpo"}}),
        ("loss: ipo", "--loss.tau .1", {"loss": {"name": "ipo", "tau": 0.1}}),
        ("loss: ipo", "loss={name: cdpo, label_smoothing: .2}", {"loss": {"name": "cdpo", "label_smoothing": 0.2}}),
        ("loss: {dpo: 1, sft: .2}", "loss.name=ipo", {"loss": {"name": "ipo"}}),
        ("loss: {dpo: 1, sft: .2}", "loss=ipo", {"loss": {"name": "ipo"}}),
        ("loss: ipo", "loss={dpo: 1, sft: .2}", {"loss": [DPO, SFT | {"weight": 0.2}]}),
        ("loss: {dpo: 1, sft: .2}", "--loss.sft .5", {"loss": [DPO, SFT | {"weight": 0.5}]}),
        # beta, in either of its two places
        ("beta: .5", "loss.beta=.1", {"beta": None, "loss": {"name": "dpo", "beta": 0.1}}),
        ("beta: .5", "beta=.1", {"beta": 0.1, "loss": {"name": "dpo"}}),
        ("loss: {name: dpo, beta: .5}", "beta=.1", {"beta": 0.1, "loss": {"name": "dpo"}}),
        ("loss: {name: dpo, beta: .5}", "loss.beta=.1", {"beta": None, "loss": {"name": "dpo", "beta": 0.1}}),
        ("beta: .5\nloss: {name: dpo, beta: .5}", "--beta .1", {"beta": 0.1, "loss": {"name": "dpo"}}),
        ("loss: [{name: dpo, beta: .5}]", "beta=.1", {"beta": 0.1, "loss": [DPO]}),
        ("beta: .5\nloss: {dpo: 1}", "loss.dpo.beta=.1", {"beta": None, "loss": [DPO | {"beta": 0.1}]}),
        # another file is read in the same way
        ("data: {path: a, format: hh}", "data=b", {"data": DATA | {"path": "b", "format": "hh"}}),
        ("data: {path: a, format: hh}", "--data b", {"data": DATA | {"path": "b", "format": "hh"}}),
        ("data: {path: a, format: hh}", "data.path=b", {"data": DATA | {"path": "b", "format": "hh"}}),
        ("data: {path: a, format: hh}", "data.format=null", {"data": DATA | {"path": "a"}}),
        ("data: {path: a, format: hh}", "data={path: b}", {"data": DATA | {"path": "b"}}),
        ("data: a", "data.order=example", {"data": DATA | {"path": "a", "order": "example"}}),
        # a reference that is named is fixed
        ("reference: {from: x, sync_every: 5}", "reference=start", {"reference": "start"}),
        ("reference: {from: x, sync_every: 5}", "--reference.from y", {"reference": MOVING | {"from": "y"}}),
        ("reference: {from: x, sync_every: 5}", "reference.sync_every=7", {"reference": MOVING | {"sync_every": 7}}),
        ("reference: x", "reference.sync_every=7", {"reference": MOVING | {"sync_every": 7}}),
        # an adapter
        ("lora: {r: 8}", "lora=null", {"lora": None}),
        ("lora: {r: 8}", "lora.alpha=4", {"lora": LORA | {"r": 8, "alpha": 4.0}}),
        ("lora: null", "--lora.r 4", {"lora": LORA | {"r": 4}}),
        # spellings of one option, and values that are left out
        ("lr: 1", "lr=1e-5", {"lr": 1e-5}),
        ("lr: 1", "--lr 1e-5", {"lr": 1e-5}),
        ("lr: 1", "--lr=1e-5", {"lr": 1e-5}),
        ("batch_size: 8", "--batch-size 16", {"batch_size": 16}),
        ("data: {path: a}", "--data.max-rejected=.2", {"data": DATA | {"path": "a", "max_rejected": 0.2}}),
        ("compile: false", "--compile", {"compile": True}),
        ("compile: false", "--compile lr=1", {"compile": True, "lr": 1}),
        ("compile: true", "--compile false", {"compile": False}),
        ("compile: false", "--compile --lr 1", {"compile": True, "lr": 1}),
        ("lr: 1", "--gradient-checkpointing .5", {"gradient_checkpointing": 0.5}),
        ("lr: 1", "--gradient-checkpointing beta=.5", {"gradient_checkpointing": True, "beta": 0.5}),
        ("lr: 1", "--lora.dora --lora.new", {"lora": LORA | {"dora": True, "new": True}}),
        ("max_length: 8", "--max-length null", {"max_length": None}),
    ],
)
@pytest.mark.parametrize("file_first", [True, False])
def test_a_value_on_the_line_replaces_that_of_the_file_in_every_spelling(
    file: str, line: str, wanted: dict[str, object], file_first: bool, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(file + "".join(f"\n{name}: x" for name in ("model", "data", "out") if f"{name}:" not in file))
    words = re.findall(r"\S+=\{.*\}|\S+", line)
    config = load_config(DpoConfig, [str(path), *words] if file_first else [*words, str(path)]).model_dump()
    assert {name: config[name] for name in wanted} == wanted


def test_another_loss_leaves_the_options_of_the_old_one_behind(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("loss: {name: cdpo, label_smoothing: .1}\n")
    config = load_config(DpoConfig, [str(path), *NEEDED, "loss=ipo"])
    assert (config.loss.name, config.loss.options) == ("ipo", {})


@pytest.mark.parametrize("words", [("loss=cdpo", "loss.label_smoothing=.1"), ("loss.label_smoothing=.1", "loss=cdpo")])
def test_shorthands_in_either_order(words: tuple[str, str]) -> None:
    config = dpo(*words)
    assert (config.loss.name, config.loss.options) == ("cdpo", {"label_smoothing": 0.1})


def test_what_is_saved_reads_back_as_the_same(tmp_path: Path) -> None:
    config = dpo(
        "loss=cdpo", "loss.label_smoothing=.1", "lr=3e-7", "eval_data=.1", "warmup_steps=9", "cache='übung: 1'"
    )
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(DpoConfig, [str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize(
    "words",
    [
        ("loss={dpo: 1.0, sft: .2}", "loss.dpo.beta=.3"),
        ("loss=[{name: dpo, beta: .3}, {name: sft, weight: .2}]",),
        ("loss=[{name: dpo}]", "loss.sft=.2", "loss.dpo.beta=.3"),
    ],
)
def test_a_sum_of_losses(words: tuple[str, ...], tmp_path: Path) -> None:
    config = dpo(*words)
    assert [(part.name, weight, part.options) for part, weight in config.losses] == [
        ("dpo", 1.0, {"beta": 0.3}),
        ("sft", 0.2, {}),
    ]
    assert config.loss_label == "1 dpo + 0.2 sft"
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(DpoConfig, [str(tmp_path / "config.yaml")]) == config
    again = load_config(DpoConfig, [str(tmp_path / "config.yaml"), "loss.sft=.5"])
    assert [weight for _, weight in again.losses] == [1.0, 0.5]
    assert dpo().losses[0][0].name == "dpo" and dpo().loss_label == "dpo"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("beta=-0.1",), "beta must be > 0, got -0.1"),
        (("beta=0",), "beta must be > 0, got 0"),
        (("beta=nan",), "beta must be a finite number, got 'nan'"),
        (("lr=.inf",), "lr must be a finite number, got inf"),
        (("lr=true",), "lr must be a finite number, got True"),
        (("batch_size=0",), "batch_size must be > 0, got 0"),
        (("batch_size=8.0",), "batch_size must be a whole number, got 8.0"),
        (("batch_size='8'",), "batch_size must be a whole number, got '8'"),
        (("epochs=1.5",), "epochs must be a whole number, got 1.5"),
        (("precision=fp16",), "precision must be 'fp32' or 'bf16', got 'fp16'"),
        *(
            (
                (f"gradient_checkpointing={word}",),
                f"gradient_checkpointing must be true, false or a share of the layers between 0 and 1, got {got}",
            )
            for word, got in (("yes", "'yes'"), ("1.5", "1.5"), ("-.5", "-0.5"), (".nan", "nan"), ("null", "None"))
        ),
        (("warmup_steps=1.0",), "warmup_steps must be a number of steps, or a share of the run below 1, got 1.0"),
        (("eval_data=2",), "eval_data must be a file or a share of the prompts between 0 and 1, got 2"),
        (("loss.label_smoothing=[1]",), "loss.label_smoothing must be a finite number or a word, got [1]"),
        (("loss=[dpo, sft]",), "loss: a sum of losses is a list of {name: ..., weight: ...}, got the part 'dpo'"),
        (("loss=[{name: dpo}, {name: dpo}]",), "loss: a sum of losses names each once, got 'dpo' twice"),
        (("loss={dpo: 0}",), "loss.0.weight must be > 0, got 0"),
        (("loss=[]",), "loss"),
        (("loss={dpo: 1, sft: .2}", "loss.ipo.beta=.1"), "option 'loss.ipo.beta': the sum of losses has no part 'ipo'"),
        (("loss={dpo: 1, sft: .2}", "loss.dpo.a.b=.1"), "option 'loss.dpo.a.b': 'dpo.a' has no inner options"),
        (("eval_every=5",), "eval_every needs eval_data: a file, or a share of the prompts such as 0.1"),
        (("out=''",), "out must name a file, a folder or a hub id, got ''"),
        (('out="a\\0b"',), "out must name a file, a folder or a hub id, got 'a\\x00b'"),
        (("beta=.1", "loss.beta=.2"), "beta is 0.1 and loss.beta is 0.2; set one of them"),
        (("bta=.1",), "unknown option 'bta'; did you mean 'beta'?"),
        (("data.ordr=prompt",), "unknown option 'data.ordr'; did you mean 'data.order'?"),
        (("lora.r=0",), "lora.r must be > 0, got 0"),
        (("batch_size=" + "9" * 25,), "batch_size must be a number below 2^63, got one of 84 bits"),
        (("lora.r=" + "9" * 25,), "lora.r must be a number below 2^63, got one of 84 bits"),
        (("loss.beta=1" + "0" * 400,), "loss.beta must be a number below 2^63, got one of 1329 bits"),
        (("loss=[{name: dpo, weight: 1" + "0" * 400 + "}]",), "loss.0.weight must be a number below 2^63, got one of"),
        (("max_steps=" + "9" * 5000,), "option 'max_steps': holds a value that cannot be read (Exceeds the limit"),
        (("threads=100000",), "threads must be <= 1024, got 100000"),
        (("lora.rank=8",), "unknown option 'lora.rank'; did you mean 'lora.r'?"),
        (("lora_r=8",), "unknown option 'lora_r'; here it is called lora.r"),
        (("lora.dropout=.1",), "lora.dropout must be 0, got 0.1: responses share their prompt's activations"),
        (("lora.targets=3",), "lora.targets must be all-linear, a name of layers or a list of names, got 3"),
        (("quantize=nf4",), "quantize=nf4 stores frozen weights; train an adapter over them: lora.r=16"),
        (("side=chosen",), "option 'side' belongs to `preftree sft`"),
        (("lr=1e-6", "lr=1e-5"), "option 'lr' is given twice; keep one"),
        (("lr=1: 2: 3",), "option 'lr':1: is not valid YAML"),
        (("lr.x=1",), "option 'lr.x': 'lr' has no inner options"),
        (("=1",), "'=1': must be key=value with a dotted key"),
        (("--lr",), "option --lr has no value; give it as --lr VALUE or lr=VALUE"),
        (("--lr", "--beta", ".1"), "option --lr has no value; give it as --lr VALUE or lr=VALUE"),
        (("--bta", ".1"), "unknown option 'bta'; did you mean 'beta'?"),
        (("--data.ordr", "prompt"), "unknown option 'data.ordr'; did you mean 'data.order'?"),
        (("--learning-rate", "1e-5"), "unknown option 'learning_rate'; here it is called lr"),
        (("--side=chosen",), "option 'side' belongs to `preftree sft`"),
        (("--=1",), "'--=1': must be key=value with a dotted key"),
        (("lr=1e-6", "--lr", "1e-5"), "option 'lr' is given twice; keep one"),
        (("loss=dpo", "loss.name=ipo"), "option 'loss.name' is given twice, as 'loss' and as 'loss.name'; keep one"),
        (("data.path=b",), "option 'data.path' is given twice, as 'data' and as 'data.path'; keep one"),
        (("reference=start", "reference.from=x"), "option 'reference.from' is given twice, as 'reference' and as"),
        (("loss={name: ipo, tau: .1}", "loss.tau=.2"), "option 'loss.tau' is given twice, as 'loss' and as 'loss.tau'"),
        (("a.yaml", "b.yaml"), "one configuration file at most, got 'a.yaml' and 'b.yaml'"),
    ],
)
def test_a_wrong_option_is_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    options = [word for word in NEEDED if not any(word.split("=")[0] == other.split("=")[0] for other in words)]
    if "lr.x=1" in words:
        options.append("lr=1e-6")
    with pytest.raises(ConfigError) as caught:
        load_config(DpoConfig, [*options, *words])
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "ours"), sorted(OTHER_NAMES.items()))
def test_names_of_other_programs_are_answered_with_ours(name: str, ours: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dpo(f"{name}=x")
    assert str(caught.value) == f"unknown option {name!r}; here it is called {ours}"
    first = ours.split()[0].split("=")[0].split(".")[0]
    assert first in DpoConfig.model_fields


def test_faults_in_a_file_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndata: d\nout: o\n\nlearning_rate: 1e-6\n")
    with pytest.raises(ConfigError, match=rf"here it is called lr \({path}:5\)$"):
        load_config(DpoConfig, [str(path)])
    path.write_text("model: m\ndata: d\nout: o\nloss:\n  name: cdpo\n  label_smoothing: true\n")
    with pytest.raises(ConfigError, match=rf"must be a finite number or a word, got True \({path}:6\)$"):
        load_config(DpoConfig, [str(path)])


def test_a_reference_that_follows(tmp_path: Path) -> None:
    config = dpo("reference.sync_every=8")
    assert (config.reference_place, config.reference_schedule and config.reference_schedule.mixup) == ("start", 0.6)
    config = dpo("reference=some/model", "reference.sync_every=8", "reference.mixup=.5")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert "from: some/model" in (tmp_path / "config.yaml").read_text()
    assert load_config(DpoConfig, [str(tmp_path / "config.yaml")]) == config
    assert dpo("reference=x").reference_schedule is None
    for word, said in (
        ("reference.mixup=.5", "reference.sync_every is not set"),
        ("reference={sync_every: 2, mixup: 2}", "reference.mixup must be <= 1, got 2"),
        ("reference.sync_every=0", "reference.sync_every must be > 0, got 0"),
        ("reference.sync=2", "unknown option 'reference.sync'"),
    ):
        with pytest.raises(ConfigError) as caught:
            dpo(word)
        assert str(caught.value).startswith(said)


def test_an_unknown_option_is_named_before_a_missing_one() -> None:
    with pytest.raises(ConfigError, match="unknown option 'model_name_or_path'; here it is called model"):
        load_config(SftConfig, ["model_name_or_path=m", "data=d", "out=o"])
    with pytest.raises(ConfigError, match="model is not set; give it as model=VALUE"):
        load_config(SftConfig, ["data=d", "out=o"])


def test_options_of_the_other_recipe() -> None:
    with pytest.raises(ConfigError, match=r"option 'beta' belongs to `preftree dpo`"):
        load_config(SftConfig, [*NEEDED, "beta=.1"])


def test_a_path_may_hold_an_equals_sign(tmp_path: Path) -> None:
    path = tmp_path / "beta=.1" / "config.yaml"
    path.parent.mkdir()
    path.write_text("lr: 1e-5\n")
    assert load_config(DpoConfig, [str(path), *NEEDED]).lr == 1e-5


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/her")
    config = load_config(DpoConfig, ["model=~/m", "data=~/d.jsonl", "out=~/o", "cache=~/c"])
    assert (config.model, config.data.path) == ("/home/her/m", "/home/her/d.jsonl")
    assert (config.out, config.cache, config.reference) == ("/home/her/o", "/home/her/c", "start")


def test_changed_options_have_dotted_names() -> None:
    old, new = dpo("beta=.1"), dpo("beta=.2", "loss=cdpo", "loss.label_smoothing=.1")
    assert changed_options(old.model_dump(), new.model_dump()) == {
        "beta": (0.1, 0.2),
        "loss.name": ("dpo", "cdpo"),
        "loss.label_smoothing": (None, 0.1),
    }

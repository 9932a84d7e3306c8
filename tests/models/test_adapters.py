"""Adapters inside a model: what they change, what they leave alone, and what peft makes of the folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from preftree.config.lora import LoraOptions
from preftree.errors import ConfigError, ModelError
from preftree.losses.quantities import sum_responses
from preftree.models.adapter_folder import find_adapter, write_adapter
from preftree.models.adapters import (
    adapted_layers,
    adapter_off,
    add_adapter,
    attach_adapter,
    base_tensors,
    has_targets,
    merge_adapter,
    trained_parameters,
)
from preftree.models.load import load_base, load_model
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TokenSequence
from support.adapters import auto_peft, moved
from support.models import plain_all, random_sequences, tiny, tiny_llama

KINDS = ["llama", "gpt2", "gemma3", "mixtral"]  # linear layers; Conv1D with tied embeddings; tied; experts


def lora(**options: object) -> LoraOptions:
    return LoraOptions.model_validate({"r": 4} | options).filled()


def some_groups(seed: int = 0) -> list[list[TokenSequence]]:
    rng = np.random.default_rng(seed)
    return [random_sequences(rng, responses=3, prompt=9, most=12, alphabet=7) for _ in range(3)]


def logps(model: PreTrainedModel) -> torch.Tensor:
    scorer = Scorer(model)
    batch = scorer.lay_out(some_groups())
    return sum_responses(scorer(batch), batch.count_R).values


def per_token(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    tokens = [int(sequence.scored.sum()) for group in some_groups() for sequence in group]
    return float(((ours - theirs).abs() / torch.tensor(tokens)).max())


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, {}) for kind in KINDS]
    + [("llama", {"dora": True}), ("gpt2", {"dora": True}), ("llama", {"rslora": True}), ("mixtral", {"rslora": True})],
)
def test_a_fresh_adapter_changes_nothing_and_a_moved_one_can_be_taken_off(kind: str, options: dict) -> None:
    with torch.no_grad():
        plain = logps(tiny(kind))
        model = tiny(kind)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        add_adapter(model, lora(**options), seed=0)
        assert torch.equal(logps(model), plain)
        moved(model)
        assert (logps(model) - plain).abs().min() > 1e-3
        trained = list(trained_parameters(model))
        with adapter_off(model):
            assert torch.equal(logps(model), plain)
        assert list(trained_parameters(model)) == trained
        assert all("lora_" in name for name in trained)
        left = base_tensors(model)
    assert left.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in left.items())


@pytest.mark.parametrize("kind", KINDS)
def test_trees_score_as_the_model_itself_does(kind: str) -> None:
    model = tiny(kind)
    add_adapter(model, lora(), seed=0)
    moved(model)
    with torch.no_grad():
        ours = logps(model)
        model.set_attn_implementation("eager")
        assert per_token(ours, plain_all(model, some_groups())) < 1e-5


@pytest.mark.parametrize("whole", [False, True], ids=["adapted", "saved whole"])
def test_an_adapted_head_has_the_gradients_of_the_plain_forward(whole: bool) -> None:
    options = {"modules_to_save": ["lm_head"]} if whole else {"targets": ["lm_head", "q_proj"]}
    model = tiny("llama", dtype=torch.float64)
    add_adapter(model, lora(**options), seed=0)
    moved(model)
    parameters = trained_parameters(model)
    assert sum("lm_head" in name for name in parameters) == (1 if whole else 2)
    found = []
    for score in (lambda: logps(model), lambda: plain_all(model, some_groups())):
        values = score()
        (values * torch.linspace(-1, 1, len(values), dtype=values.dtype)).sum().backward()
        found.append((values.detach(), {name: value.grad for name, value in parameters.items()}))
        model.zero_grad(set_to_none=True)
        model.set_attn_implementation("eager")
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)  # norms and softmax are in fp32 in the model itself
    for name, gradient in found[0][1].items():
        assert gradient is not None, name
        assert torch.allclose(gradient, found[1][1][name], rtol=1e-3, atol=1e-4), name


def test_gradient_checkpointing_keeps_the_gradients() -> None:
    found = []
    for checkpointed in (False, True):
        model = tiny("llama")
        add_adapter(model, lora(), seed=0)
        moved(model)
        scorer = Scorer(model)
        if checkpointed:
            scorer.checkpoint_gradients()
        scorer(scorer.lay_out(some_groups())).sum().backward()
        found.append([parameter.grad for parameter in trained_parameters(model).values()])
        assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_rank_without_examples_still_has_a_graph() -> None:
    model = tiny("llama")
    add_adapter(model, lora(), seed=0)
    scorer = Scorer(model)
    scorer(scorer.lay_out([])).sum().backward()


@pytest.mark.parametrize(("kind", "dora"), [*((kind, False) for kind in KINDS), ("llama", True), ("gpt2", True)])
def test_folders_agree_with_peft_and_when_merged(tmp_path: Path, kind: str, dora: bool) -> None:
    tiny(kind).save_pretrained(tmp_path / "base")
    model = tiny(kind)
    add_adapter(model, lora(dora=dora), seed=0)
    moved(model)
    (tmp_path / "adapter").mkdir()
    write_adapter(model, str(tmp_path / "base"), tmp_path / "adapter")
    with torch.no_grad():
        ours = logps(model)
        theirs = plain_all(auto_peft(tmp_path / "adapter"), some_groups())
        assert per_token(ours, theirs) < 1e-5
        assert torch.equal(logps(load_model(tmp_path / "adapter")), ours)

        adapter = find_adapter(tmp_path / "adapter")
        assert adapter is not None
        merged = load_base(adapter)
        merge_adapter(merged, adapter)
        assert not hasattr(merged, "peft_config")
        assert all(parameter.requires_grad for parameter in merged.parameters())
        merged.save_pretrained(tmp_path / "merged")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        assert per_token(plain_all(plain, some_groups()), theirs) < 1e-5
        assert (logps(load_base(adapter)) - ours).abs().min() > 1e-3


def test_the_same_seed_gives_the_same_adapter_and_leaves_the_random_numbers_alone() -> None:
    found = []
    for before in (0, 1):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        model = tiny("llama")
        add_adapter(model, lora(), seed=5)
        assert torch.equal(torch.get_rng_state(), state)
        found.append([value.detach() for value in trained_parameters(model).values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("targets", "number"),
    [("all-linear", 21), (["q_proj", "v_proj"], 6), (["model.layers.[01].mlp.*"], 6), (["model.layers.2.*"], 7)],
)
def test_targets(targets: str | list[str], number: int) -> None:
    model = tiny("llama")
    add_adapter(model, lora(targets=targets), seed=0)
    assert len(adapted_layers(model)) == number
    assert has_targets(model, targets)
    assert not has_targets(model, "all-linear") or targets == "all-linear"
    assert not has_targets(model, ["o_proj"])


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (
            "llama",
            {"targets": ["c_attn"]},
            "'c_attn', and no linear layer of LlamaForCausalLM has this name; there are",
        ),
        ("mixtral", {"dora": True}, "lora.targets=all-linear: "),
        ("llama", {"modules_to_save": ["score"]}, "lora.modules_to_save names 'score', and no layer of"),
        ("gpt2", {"targets": ["lm_head"]}, "'lm_head' cannot be adapted, since GPT2LMHeadModel uses one tensor"),
        ("gpt2", {"modules_to_save": ["wte"]}, "'wte' cannot be adapted, since GPT2LMHeadModel uses one tensor"),
    ],
)
def test_what_cannot_be_adapted_is_one_sentence(kind: str, options: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        add_adapter(tiny(kind), lora(**options), seed=0)
    assert said in str(caught.value)


def test_an_adapted_head_must_be_plain_lora() -> None:
    model = tiny("llama")
    add_adapter(model, lora(targets=["lm_head"], dora=True), seed=0)
    with pytest.raises(ModelError, match="an adapter of the LM head must be plain LoRA"):
        Scorer(model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny("llama").save_pretrained(tmp_path / "base")
    model = tiny("llama")
    add_adapter(model, lora(), seed=0)
    (tmp_path / "adapter").mkdir()
    write_adapter(model, str(tmp_path / "base"), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "puts learned tokens before the text instead of changing weights"),
        ({"peft_type": "IA3"}, "of type IA3; only LoRA"),
        ({"bias": "all"}, "is bias=all; only LoRA"),
        ({"base_model_name_or_path": None}, "does not name the model under the adapter"),
        ({"base_model_name_or_path": "/nowhere/base"}, "belongs to the model in '/nowhere/base', which does not exist"),
        ({"r": 5}, "has ranks up to 4"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(folder: Path, change: dict, said: str) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_adapters_are_refused(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="has no adapter_model"):
        load_model(folder)


def test_the_base_is_written_as_a_place_that_can_be_found_from_anywhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(folder)
    monkeypatch.chdir(folder.parent)
    write_adapter(model, "base", folder)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        folder.parent / "base"
    )
    write_adapter(model, "org/model", folder)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/model"


def test_one_of_several(folder: Path) -> None:
    model = load_model(folder)
    moved(model)
    (folder / "polite").mkdir()
    write_adapter(model, str(folder.parent / "base"), folder / "polite")
    one, other = find_adapter(folder), find_adapter(folder, "polite")
    assert one is not None and one.path == folder
    assert other is not None and other.path == folder / "polite"
    with pytest.raises(ModelError, match="holds no adapter 'rude', it holds default, polite"):
        find_adapter(folder, "rude")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match="holds the adapters polite; name one, such as"):
        find_adapter(folder)
    base = load_base(other)
    attach_adapter(base, other, trained=True)
    assert trained_parameters(base).keys() == {name for name, _ in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("rank", [65, 2**63 - 2])
def test_a_rank_above_every_layers_is_refused_before_anything_is_built(rank: int) -> None:
    """The linear layers of the model are 64 x 64 and 64 x 128, so that no matrix has a rank above 64."""
    model = tiny_llama(64)
    shapes = [module.weight.shape for name, module in model.model.named_modules() if isinstance(module, nn.Linear)]
    assert max(min(shape) for shape in shapes) == 64
    with pytest.raises(ConfigError, match=f"lora.r must be at most 64, the rank of the largest layer .* got {rank}"):
        add_adapter(model, LoraOptions(r=rank).filled(), seed=0)
    add_adapter(model, LoraOptions(r=64).filled(), seed=0)

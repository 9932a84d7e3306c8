"""Model, tokenizer and adapter must fit one another; where they do not, one sentence has both sizes."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from preftree.config.lora import LoraOptions
from preftree.errors import ModelError, visible
from preftree.models.adapter_folder import write_adapter
from preftree.models.adapters import adapted_share, add_adapter
from preftree.models.load import load_model, load_tokenizer
from preftree.models.reward_model import grow_reward_model
from preftree.models.write_folder import save_model
from preftree.scoring.reward_scorer import RewardScorer
from preftree.scoring.scorer import Scorer
from support.adapters import auto_peft, moved
from support.every_architecture import build
from support.models import tiny, tiny_llama
from support.small_runs import make_model
from support.tokenizers import plain_tokenizer

WEIGHTS = "adapter_model.safetensors"


def test_tokens_without_a_row_are_refused_with_both_sizes(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    tokenizer = plain_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens(["tell me", "say 1"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=rf"has {rows + 2} tokens, and its model's embedding has {rows} rows"):
        load_tokenizer(folder)


def test_padding_beyond_the_rows_is_never_embedded(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    tokenizer = plain_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(folder).pad_token_id == len(tokenizer) - 1
    model = grow_reward_model(folder, load_tokenizer(folder))  # it asserted on a row for the padding
    assert model.config.pad_token_id is None or model.config.pad_token_id < len(tokenizer) - 1
    RewardScorer(model)


def _adapter(top: Path) -> Path:
    make_model(top / "base")
    model = load_model(top / "base")
    add_adapter(model, LoraOptions(r=2).filled(), seed=0)
    moved(model)
    (top / "adapter").mkdir()
    write_adapter(model, str(top / "base"), top / "adapter")
    return top / "adapter"


def test_a_grown_adapter_names_layer_and_both_sizes(tmp_path: Path) -> None:
    """Someone's adapter whose embedding was resized before training, over the base of before."""
    tokenizer = plain_tokenizer()
    rows = len(tokenizer)
    save_model(tiny_llama(rows), tokenizer, tmp_path / "base", card="")
    model = load_model(tmp_path / "base")
    model.resize_token_embeddings(rows + 3)
    options = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by old names
        get_peft_model(model, options).save_pretrained(tmp_path / "grown")
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "grown")
    said = str(caught.value)
    assert f"[{rows + 3}, 64]" in said and f"[{rows}, 64]" in said and "embed_tokens" in said and "\n" not in said


@pytest.mark.parametrize(("change", "said"), [("none", "lacks 28 of them"), ("one", "lacks 1 of them")])
def test_an_adapter_without_its_tensors_is_refused(tmp_path: Path, change: str, said: str) -> None:
    folder = _adapter(tmp_path)
    tensors = load_file(folder / WEIGHTS)
    kept = {} if change == "none" else dict(sorted(tensors.items())[1:])
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"28 tensors are wanted, and {WEIGHTS} {said}, such as "):
        load_model(folder)


def test_tensors_of_no_layer_are_refused(tmp_path: Path) -> None:
    folder = _adapter(tmp_path)
    tensors = load_file(folder / WEIGHTS)
    name = "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"
    save_file(tensors | {name: torch.zeros(2, 64)}, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"has 1 that belong to no layer, such as model\.layers\.9\.mlp"):
        load_model(folder)


def test_another_base_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    folder = _adapter(tmp_path)
    make_model(tmp_path / "other", seed=1)
    shutil.copytree(tmp_path / "base", tmp_path / "copy")
    config = json.loads((folder / "adapter_config.json").read_text())
    for name in ("copy", "other"):
        config["base_model_name_or_path"] = str(tmp_path / name)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        if name == "copy":
            load_model(folder)
    with pytest.raises(ModelError, match="was trained on other weights than those of its base"):
        load_model(folder)


MIXTURES = (
    "gpt_oss",
    "granitemoe",
    "phimoe",
    "qwen2_moe",
    "llama4_text",
    "qwen3_next",
    "mixtral",
    "qwen3_moe",
    "jetmoe",
)


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_adapted(name: str) -> None:
    model = build(name)
    add_adapter(model, LoraOptions(r=2).filled(), seed=0)
    # Routers, and the convolutions and decays of linear attention, are no linear layers.
    assert adapted_share(model) > 0.85
    trained = [parameter_name for parameter_name, value in model.named_parameters() if value.requires_grad]
    assert any("expert" in one or "input_linear" in one for one in trained)
    if name in ("qwen2_moe", "qwen3_next"):
        assert any("shared_expert.up_proj" in one for one in trained)


def test_adapted_experts_compute_the_same_by_peft_alone(tmp_path: Path) -> None:
    tokenizer = plain_tokenizer(vocab_size=280)
    model = tiny("mixtral")
    model.resize_token_embeddings(len(tokenizer))
    save_model(model, tokenizer, tmp_path / "base", card="")
    model = load_model(tmp_path / "base")
    add_adapter(model, LoraOptions(r=2).filled(), seed=0)
    moved(model)
    (tmp_path / "adapter").mkdir()
    write_adapter(model, str(tmp_path / "base"), tmp_path / "adapter")
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        ours, again = model(input_ids=ids).logits, load_model(tmp_path / "adapter")(input_ids=ids).logits
        theirs = auto_peft(tmp_path / "adapter")(input_ids=ids).logits
        start = load_model(tmp_path / "base")(input_ids=ids).logits
    assert torch.equal(ours, again)
    assert float((ours - theirs).abs().max()) < 1e-5
    assert float((ours - start).abs().max()) > 1e-3


def test_a_share_is_counted_by_hand() -> None:
    model = tiny_llama()
    add_adapter(model, LoraOptions(r=2, targets=["q_proj", "o_proj"]).filled(), seed=0)
    q, o, k, v, mlp = 64 * 64, 64 * 64, 64 * 32, 64 * 32, 3 * 64 * 48
    assert adapted_share(model) == pytest.approx((q + o) / (q + o + k + v + mlp))


def test_weights_that_are_not_numbers_are_refused_by_the_scorer() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[3, 0] = torch.nan  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(ModelError, match="gives figures that are not finite"):
        Scorer(model)


def test_messages_do_not_steer_a_terminal() -> None:
    assert str(ModelError("a \x1b[31mred\u202e\x07")) == "a \\x1b[31mred\\u202e\\x07"
    assert visible("plain text, übung\n\t") == "plain text, übung\n\t"

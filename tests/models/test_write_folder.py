"""Folders that are written: they end, load and compute elsewhere as they do here."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from preftree.config.sft import SftConfig
from preftree.errors import ModelError
from preftree.evaluate import export
from preftree.evaluate.export import export_run
from preftree.models.beside_weights import copy_beside, end_tokens
from preftree.models.load import load_model, load_tokenizer
from preftree.models.serving import modelfile
from preftree.models.write_folder import save_adapter, save_model
from preftree.run_folder.card import code_span, fenced, model_card
from preftree.train.dpo import run_dpo
from preftree.train.sft import run_sft
from support.adapters import auto_peft, moved
from support.models import tiny_llama
from support.small_runs import dpo_config, make_model, make_pairs, sft_config
from support.tokenizers import END, EOS, chat_tokenizer, plain_tokenizer


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose settings know the EOS alone, trained on turns that the template closes with <|im_end|>."""
    place = tmp_path_factory.mktemp("with spaces")
    tokenizer = chat_tokenizer()
    model = tiny_llama(len(tokenizer), dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    (place / "model" / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    (place / "model" / "LICENSE").write_text("mine")
    rows = [{"messages": [_turn("user", f"say {n}"), _turn("assistant", "fine, good.")]} for n in range(12)]
    (place / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = SftConfig(
        model=str(place / "model"),
        data={"path": str(place / "chats.jsonl")},  # pyright: ignore[reportArgumentType]  # pydantic reads it
        out=str(place / "run"),
        cache=str(place / "cache"),
        lr=1e-2,
        batch_size=4,
        epochs=20,
    )
    run_sft(config)
    export_run(place / "run", place / "merged", "merged")
    return place


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_plain_generate_ends_where_training_did(chats: Path) -> None:
    for folder in (chats / "run" / "model", chats / "merged"):
        tokenizer = load_tokenizer(folder)
        end = tokenizer.convert_tokens_to_ids(END)
        settings = json.loads((folder / "generation_config.json").read_text())
        assert settings["eos_token_id"] == [tokenizer.eos_token_id, end]
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
        text = tokenizer.apply_chat_template([_turn("user", "say 3")], tokenize=False, add_generation_prompt=True)
        ids: Any = tokenizer([str(text)], return_tensors="pt")["input_ids"]
        drawn = model.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1] :].tolist()
        assert drawn[-1] == end and drawn.index(end) == len(drawn) - 1
    assert f'PARAMETER stop "{END}"' in (chats / "merged" / "Modelfile").read_text()


def test_an_export_that_ends_elsewhere_is_not_kept(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = export.write_model

    def forgetful(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        path = arguments[2] / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 0}))

    monkeypatch.setattr(export, "write_model", forgetful)
    with pytest.raises(ModelError, match=r"ends responses at tokens \[0\], and the run at \[0, 2\]"):
        export_run(chats / "run", chats / "bad", "merged")
    monkeypatch.setattr(export, "write_model", original)
    generate = export.generate
    monkeypatch.setattr(
        export,
        "generate",
        lambda *words: [one.__class__(one.text, one.ids[:2], None) for one in generate(*words)],
    )
    with pytest.raises(ModelError, match="plain generate ends a response of the exported folder after"):
        export_run(chats / "run", chats / "bad", "merged")
    assert not (chats / "bad").exists()


def test_files_beside_the_weights_travel_along(chats: Path) -> None:
    for folder in (chats / "run" / "model", chats / "merged"):
        assert (folder / "preprocessor_config.json").read_text() == '{"image_processor_type": "ViTImageProcessor"}'
        assert (folder / "LICENSE").read_text() == "mine"


def test_the_dtype_is_said(chats: Path) -> None:
    card = (chats / "run" / "model" / "README.md").read_text()
    assert "The weights are float32 in safetensors format, in which they were trained" in card
    assert "training started from bfloat16" in card
    assert "--merged --dtype bfloat16` rounds them" in card


@pytest.mark.parametrize("name", ["run/model", "merged"])
def test_the_cards_code_works_when_pasted(
    chats: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _paste(chats / name / "README.md")


def _paste(card: Path) -> dict[str, Any]:
    match = re.search(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    assert match is not None
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by old names
        exec(match[1], names)
    return names


def test_the_card_of_an_adapter_loads_it_with_its_ends(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    tokenizer = chat_tokenizer()
    base = tiny_llama(len(tokenizer))
    base.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    base.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 4)
    run_dpo(dpo_config(tmp_path, "run", "lora.r=2", "max_steps=1"))
    end = tokenizer.convert_tokens_to_ids(END)
    names = _paste(tmp_path / "run" / "model" / "README.md")
    assert names["model"].generation_config.eos_token_id == [tokenizer.eos_token_id, end]
    assert len(names["tokenizer"]) == len(tokenizer)


def test_settings_that_transformers_does_not_save_end_no_run(tmp_path: Path) -> None:
    """Many published folders have a temperature without sampling, which transformers loads and refuses to save."""
    tokenizer = plain_tokenizer()
    model = tiny_llama(len(tokenizer))
    model.generation_config = GenerationConfig(temperature=0.6, do_sample=False, eos_token_id=7)
    with pytest.raises(ValueError, match="temperature"):
        model.save_pretrained(tmp_path / "by transformers")
    save_model(model, tokenizer, tmp_path / "ours", card="")
    settings = json.loads((tmp_path / "ours" / "generation_config.json").read_text())
    assert settings["temperature"] == 0.6
    assert settings["eos_token_id"] == [tokenizer.eos_token_id, 7]
    assert model.generation_config.temperature == 0.6


def test_transformers_4_reads_what_is_written(tmp_path: Path) -> None:
    """Its names, which transformers 5 no longer writes: without them 4 refuses the tokenizer and turns the angles of
    positions by its default. The values were tried with transformers 4.57."""
    tokenizer = plain_tokenizer()
    angles = {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}
    config = transformers.LlamaConfig(
        **tiny_llama(len(tokenizer)).config.to_dict() | {"rope_parameters": angles}  # pyright: ignore[reportArgumentType]
    )
    model = transformers.LlamaForCausalLM(config)
    save_model(model, tokenizer, tmp_path, card="")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["rope_theta"] == 5e5
    assert written["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    again = load_model(tmp_path)
    assert again.config.rope_parameters == config.rope_parameters
    ids = torch.arange(3, 50)[None]
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    assert load_tokenizer(tmp_path)("Human: what")["input_ids"] == tokenizer("Human: what")["input_ids"]


def test_values_of_a_modelfile_are_quoted() -> None:
    tokenizer = plain_tokenizer()
    text = modelfile(tokenizer, GenerationConfig(), base="/models/my base")
    assert text.splitlines()[0] == 'FROM "/models/my base"'
    assert f'PARAMETER stop "{EOS}"' in text
    tokenizer.add_special_tokens({"eos_token": '"end"'})
    assert 'PARAMETER stop """"end""""' in modelfile(tokenizer, GenerationConfig(), base=None)
    assert end_tokens(None, tokenizer) == [tokenizer.eos_token_id]


def test_links_out_of_a_folder_are_not_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "secret").write_text("key")
    source = tmp_path / "source"
    source.mkdir()
    (source / "notes.txt").symlink_to(tmp_path / "secret")
    (source / "inner.txt").write_text("inner")
    (source / "alias.txt").symlink_to(source / "inner.txt")
    (tmp_path / "out").mkdir()
    assert copy_beside(str(source), tmp_path / "out") == ["alias.txt", "inner.txt"]
    assert "notes.txt is a link to a file outside its folder" in caplog.text

    model = _adapted(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_model.safetensors").symlink_to(tmp_path / "secret")
    save_adapter(model, plain_tokenizer(), tmp_path / "grown", base="base", card="", beside={"polite": other})
    assert list((tmp_path / "grown" / "polite").iterdir()) == []
    assert "adapter_model.safetensors is a link to a file outside its folder" in caplog.text


def _adapted(folder: Path) -> PreTrainedModel:
    from preftree.config.lora import LoraOptions
    from preftree.models.adapters import add_adapter

    model = tiny_llama(len(plain_tokenizer()))
    add_adapter(model, LoraOptions(r=2).filled(), seed=0)
    moved(model)
    return model


def test_what_a_path_holds_stays_text_in_the_card(tmp_path: Path) -> None:
    make_pairs(tmp_path / "pairs.jsonl")
    config = sft_config(tmp_path, "<script>x</script>", "model=a`b`<script>c</script>")
    card = model_card(config, {"steps": 5, "held_out": {"<b>": "<script>"}})
    prose = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", card, flags=re.DOTALL)
    assert "<script>" not in prose and "<b>" not in prose
    assert "&lt;script&gt;" in prose
    assert code_span("a`b") == "`` a`b ``"
    assert fenced("```\n", "yaml") == "````yaml\n```\n````"


def test_peft_loads_the_adapter_beside_its_settings(chats: Path, tmp_path: Path) -> None:
    model = _adapted(tmp_path)
    tokenizer = plain_tokenizer()
    save_model(tiny_llama(len(tokenizer)), tokenizer, tmp_path / "base", card="")
    save_adapter(model, tokenizer, tmp_path / "adapter", base=str(tmp_path / "base"), card="", beside={})
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        difference = auto_peft(tmp_path / "adapter")(input_ids=ids).logits - model(input_ids=ids).logits
    assert float(difference.abs().max()) < 1e-5

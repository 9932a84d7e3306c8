"""Broken folders end in one sentence, soon; the script in support makes them from a seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftree.data.tokens import apply_template
from preftree.data.tokens.encoder import make_encoder
from preftree.errors import ModelError
from preftree.models.load import load_model, load_tokenizer
from support.hostile_folders import TEMPLATES, make_sources, run
from support.tokenizers import chat_tokenizer


def check(number: int, first: int = 0) -> None:
    outcomes = run(0, number, first=first)
    wrong = [outcome for outcome in outcomes if outcome.kind in ("traceback", "lines") or outcome.seconds > 10]
    assert wrong == []
    assert sum(outcome.kind == "sentence" for outcome in outcomes) > len(outcomes) / 2


def test_twenty_broken_folders() -> None:
    check(22)


@pytest.mark.slow
def test_three_hundred_broken_folders() -> None:
    check(300)


def test_layers_that_no_weights_are_for_are_not_built(tmp_path: Path) -> None:
    folder, _ = make_sources(tmp_path)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1000000000'))
    with pytest.raises(ModelError, match=r"num_hidden_layers=1e\+09, and the weights beside it are 21 tensors"):
        load_model(folder)


@pytest.mark.parametrize("source", TEMPLATES[:4])
def test_a_template_that_does_not_end(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_template, "SECONDS", 0.2)
    tokenizer = chat_tokenizer(template=source)
    with pytest.raises(apply_template.EndlessTemplate):
        make_encoder(tokenizer).facts()


def test_no_refusal_advises_what_no_command_takes(tmp_path: Path) -> None:
    folder, _ = make_sources(tmp_path)
    for file, more in (
        ("config.json", {"model_type": "x", "auto_map": {"AutoConfig": "x.X", "AutoModelForCausalLM": "x.Y"}}),
        ("tokenizer_config.json", {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["x.X", None]}}),
    ):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | more))
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError) as caught:
            load(folder)
        assert "trust_remote_code" not in str(caught.value)

"""The auxiliary loss of a mixture's routers is not added, and a run whose model asks for it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from preftree.config.load import load_config
from preftree.config.sft import SftConfig
from preftree.train.sft import run_sft
from support.models import ARCHITECTURES
from support.small_runs import rows_of
from support.tokenizers import plain_tokenizer

COEFFICIENT = 0.5


def make_mixture(folder: Path, *, asks: bool) -> None:
    tokenizer = plain_tokenizer()
    name, options = ARCHITECTURES["mixtral"]
    config = getattr(transformers, f"{name}Config")(**options | {"vocab_size": len(tokenizer)})
    config.output_router_logits, config.router_aux_loss_coef = asks, COEFFICIENT
    torch.manual_seed(0)
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("asks", [True, False])
def test_the_loss_is_that_of_transformers_without_its_auxiliary_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asks: bool
) -> None:
    make_mixture(tmp_path / "model", asks=asks)
    prompt, response = "the plot was", " very good and not dull"
    (tmp_path / "shown.jsonl").write_text(json.dumps({"prompt": prompt, "completion": response}) + "\n")
    words = {"model": tmp_path / "model", "data": tmp_path / "shown.jsonl", "out": tmp_path / "run"}
    words |= {"cache": tmp_path / "cache", "max_steps": 1, "batch_size": 1}
    run_sft(load_config(SftConfig, [f"{name}={value}" for name, value in words.items()]))

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    shown = tokenizer(prompt)["input_ids"]
    ids = torch.tensor([[*shown, *tokenizer(response)["input_ids"], tokenizer.eos_token_id]])
    labels = ids.clone()
    labels[:, : len(shown)] = -100
    with torch.no_grad():
        theirs = model(input_ids=ids, labels=labels, output_router_logits=True)
    assert theirs.aux_loss > 0.5
    (row,) = rows_of(tmp_path / "run")
    plain = float(theirs.loss - COEFFICIENT * theirs.aux_loss)
    assert row["loss"] == pytest.approx(plain, rel=1e-4)
    said = "asks for the auxiliary loss of its routers (output_router_logits, router_aux_loss_coef=0.5), which is not"
    assert (said in caplog.text) == asks

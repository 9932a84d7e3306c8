"""vLLM behind the protocol, with a stand-in for the package that records how it was called."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import ConfigError, ModelError
from preftree.generate.protocol import Sampler, Sampling
from preftree.generate.vllm import folder_digest, row_seed, vllm_sampler
from preftree.models.load import load_tokenizer
from support.small_runs import make_model


@dataclass
class SamplingParams:
    """The fields that are set, and no others."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop_token_ids: list[int]
    stop: list[str] | None
    include_stop_str_in_output: bool


@dataclass
class Calls:
    made: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[list[int], SamplingParams]] = field(default_factory=list)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, place: Path) -> Calls:
    record, module, tokenizer = Calls(), ModuleType("vllm"), load_tokenizer(place / "model")

    class LLM:
        def __init__(self, **options: Any) -> None:
            record.made = options
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=64))

        def generate(self, prompts: list[dict], params: list[SamplingParams], *, use_tqdm: bool) -> list[Any]:
            assert not use_tqdm and len(prompts) == len(params)
            answers = []
            for prompt, way in zip(prompts, params, strict=True):
                record.asked.append((prompt["prompt_token_ids"], way))
                ids = [*tokenizer(f"seed {way.seed % 1000}")["input_ids"], tokenizer.eos_token_id]
                answers.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids[: way.max_tokens]))]))
            return answers

    for name, value in (("LLM", LLM), ("SamplingParams", SamplingParams), ("TokensPrompt", dict)):
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return record


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    make_model(folder / "model")
    (folder / "prompts.txt").write_text("one\ntwo\nthree")
    return folder


def sampler(place: Path) -> Sampler:
    return vllm_sampler(str(place / "model"), load_tokenizer(place / "model"), precision="bf16")


def test_every_row_is_a_request_with_its_own_seed(place: Path, calls: Calls) -> None:
    sample = sampler(place)
    assert calls.made == {"model": str(place / "model"), "dtype": "bfloat16", "generation_config": "vllm"}
    sampling = Sampling(20, 0.7, 0.9, seed=3, stop=("\n\n",))
    whole = sample([[5, 6], [7], [5, 6]], sampling)
    assert [ids for ids, _ in calls.asked] == [[5, 6], [7], [5, 6]]
    way = calls.asked[2][1]
    assert (way.max_tokens, way.temperature, way.top_p, way.stop) == (20, 0.7, 0.9, ["\n\n"])
    assert way.seed == row_seed(3, 2) and way.include_stop_str_in_output
    assert load_tokenizer(place / "model").eos_token_id in way.stop_token_ids
    assert whole[0].text == f"seed {row_seed(3, 0) % 1000}" and whole[0].finished
    assert sample([[5, 6]], sampling, first_row=2) == whole[2:]  # rows may be cut into calls
    assert not sample([[5]], Sampling(1))[0].finished


def test_seeds_differ_by_row_and_by_seed() -> None:
    seeds = {row_seed(seed, row) for seed in range(30) for row in range(30)}
    assert len(seeds) == 900 and all(0 <= seed < 2**63 for seed in seeds)


def test_stop_texts_are_cut_here(place: Path, calls: Calls) -> None:
    (one,) = sampler(place)([[5]], Sampling(20, stop=("ed",)))
    assert (one.text, one.stopped, one.end) == ("se", True, None)


def test_a_prompt_without_room_is_refused(place: Path, calls: Calls) -> None:
    with pytest.raises(ConfigError, match="prompt 8 has 60 tokens, wanted 1 to 59: vLLM holds 64"):
        sampler(place)([[1], [1] * 60], Sampling(5), first_row=7)
    assert not calls.asked


def test_the_command_writes_the_same_kind_of_file(place: Path, calls: Calls) -> None:
    words = ["generate", str(place / "model"), str(place / "prompts.txt"), str(place / "out.jsonl")]
    done = CliRunner().invoke(app, [*words, "--max-new-tokens", "20", "--engine", "vllm"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (place / "out.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["response"]) for row in rows] == [
        (prompt, f"seed {row_seed(0, row) % 1000}") for row, prompt in enumerate(("one", "two", "three"))
    ]
    job = json.loads((place / "out.jsonl.job").read_text())
    assert (job["engine"], job["weights"]) == ("vllm", folder_digest(str(place / "model")))
    done = CliRunner().invoke(app, [*words, "--max-new-tokens", "20"])  # the other engine draws other texts
    assert "engine was vllm, is None" in str(done.exception)


def test_without_the_package_one_sentence_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it fails
    with pytest.raises(ConfigError, match=r"--engine vllm needs vLLM, which cannot be imported .*preftree\[vllm\]"):
        sampler(place)


def test_an_adapter_is_refused(place: Path, calls: Calls, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter; merge it"):
        vllm_sampler(str(tmp_path), load_tokenizer(place / "model"), precision="fp32")


def test_digests_tell_models_apart(place: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "other", seed=1)
    assert folder_digest(str(tmp_path / "other")) != folder_digest(str(place / "model"))
    assert folder_digest("owner/name") == "hub owner/name"

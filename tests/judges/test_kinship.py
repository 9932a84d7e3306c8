"""Warnings of a judge that judges its own family, or what it has taught."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftree.judges import kinship
from preftree.judges.functions import identify
from preftree.judges.kinship import families_in, warnings_of


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("Qwen3-32B", {"qwen"}),
        ("meta-llama/Llama-3.1-8B-Instruct", {"llama"}),
        ("gpt-5-mini", {"gpt"}),
        ("DeepSeek-R1-Distill-Qwen-7B", {"deepseek", "qwen"}),
        ("philosophy-1", set()),
        ("my-model", set()),
    ],
)
def test_families_stand_as_words(name: str, families: set[str]) -> None:
    assert families_in(name) == families


def test_a_judge_of_the_family_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    side = ("policy", str(tmp_path / "policy"))
    (said,) = warnings_of("openai:Qwen3-32B@http://127.0.0.1:1/v1", [side])
    assert "policy and the judge Qwen3-32B are of one family (qwen)" in said
    assert warnings_of("openai:gemma-3@http://127.0.0.1:1/v1", [side]) == []
    assert warnings_of("world:tiny", [side]) == []


def test_a_judge_that_labelled_the_training_data_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = "openai:gemma-3@http://127.0.0.1:1/v1"
    verdicts = tmp_path / "verdicts.jsonl"
    verdicts.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", "judge": identify(judge)}) + "\n")
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)

    class Done:
        config = {"model": "start", "data": {"path": str(verdicts)}}  # noqa: RUF012

    monkeypatch.setattr(kinship, "read_summary", lambda folder: Done if folder == run.resolve() else None)
    side = ("run", str(run / "model"))
    (said,) = warnings_of(judge, [side])
    assert "run was trained on verdicts of the judge itself" in said
    assert warnings_of("openai:gemma-2@http://127.0.0.1:1/v1", [side]) == []
    Done.config = {"model": "start", "data": {"path": "p.txt"}, "reward": judge}
    assert len(warnings_of(judge, [side])) == 1

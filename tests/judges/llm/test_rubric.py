"""The file of a judge: what it may say, and one sentence for what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftree.errors import ConfigError
from preftree.judges.llm.rubric import read_judge_file

MINIMAL = "model: m\nendpoint: http://127.0.0.1:1/v1\n"


def write(folder: Path, text: str) -> str:
    (folder / "judge.yaml").write_text(MINIMAL + text)
    return str(folder / "judge.yaml")


def test_a_whole_file(tmp_path: Path) -> None:
    judge = read_judge_file(
        write(
            tmp_path,
            "mode: pointwise\nscale: [1, 5]\nprice: {input: .15, output: .6}\nreferences: good.jsonl\n"
            "task: Judge as a teacher of {language}.\nvariables: {language: German}\n"
            "criteria:\n- {name: right, weight: 2, description: 'no {errors}', anchors: {'1': wrong, '5': right}}\n"
            "- {name: short}\n".replace("{errors}", "{language} errors"),
        )
    )
    assert judge.fill(judge.task) == "Judge as a teacher of German."
    assert [criterion.weight for criterion in judge.criteria] == [2, 1]
    assert judge.references == str(tmp_path / "good.jsonl")
    assert (judge.mode, judge.temperature, judge.reason) == ("pointwise", 0, "first")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modell: x\n", r"judge.yaml:3: modell is no option of a judge"),
        ("task: Be {kind}.\n", r"\{kind\} is none of the file's variables; define it"),
        ("task: Compare {response}.\n", "shown to the judge by themselves"),
        ("variables: {tone: dry}\n", r"the variable 'tone' stands nowhere; write \{tone\}"),
        ("criteria: [{name: a}, {name: a}]\n", "criteria must have different names"),
        ("criteria: [{name: a, weight: 0}]\n", "judge.yaml:3: criteria.0.weight input should be greater than 0"),
        ("criteria: [{name: a, anchors: {'1': bad}}]\n", "describe scores, which mode pairwise has none of"),
        ("mode: pointwise\ncriteria: [{name: a, anchors: {'11': bad}}]\n", "must be scores from 1 to 10, got '11'"),
        ("api_key_env: sk-AbC123\n", "must be the name of an environment variable"),
        ("max_cost: 1\n", "max_cost needs a price"),
        ("scale: [5, 1]\n", "two rising whole numbers"),
        ("temperature: hot\n", "judge.yaml:3: temperature input should be a valid number"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read_judge_file(write(tmp_path, text))
    assert "sk-AbC123" not in str(caught.value)

"""Files of judges at a fake server, and pairs whose quality is written in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preftree.judges.llm.bill import Asking
from preftree.judges.llm.judge import LanguageModelJudge
from preftree.judges.llm.rubric import read_judge_file


def judge_file(folder: Path, url: str, **options: Any) -> str:
    """The path of a judge's file; `options` are added to it."""
    values: Mapping[str, Any] = {"model": "m", "endpoint": url, "timeout": 5.0, "retries": 2, **options}
    name = f"judge{len(list(folder.glob('judge*.yaml')))}.yaml"
    (folder / name).write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    return str(folder / name)


def model_judge(folder: Path, url: str, *, max_cost: float | None = None, **options: Any) -> LanguageModelJudge:
    """A judge at a fake server, with a cache in the folder."""
    how = Asking(max_cost, cache=folder / "answers.db")
    return LanguageModelJudge(read_judge_file(judge_file(folder, url, **options)), how)


def known_file(folder: Path, num: int = 12) -> str:
    """Pairs of which a judge by written quality passes all canaries."""
    rows = [
        {"prompt": f"question {row}", "chosen": f"quality 9 and more words {row}", "rejected": f"quality 1 of {row}"}
        for row in range(num)
    ]
    (folder / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "known.jsonl"

"""Kinship of a judge with what it judges: a model of its own family, or one that was trained on its verdicts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from preftree.judges.functions import identify
from preftree.judges.llm.specs import find_llm
from preftree.run_folder.reader import read_summary

FAMILIES = (
    *(
        "bloom",
        "claude",
        "command",
        "deepseek",
        "falcon",
        "gemini",
        "gemma",
        "glm",
        "gpt",
        "granite",
        "grok",
        "internlm",
    ),
    *(
        "kimi",
        "llama",
        "mamba",
        "minimax",
        "mistral",
        "mixtral",
        "mpt",
        "nemotron",
        "olmo",
        "phi",
        "qwen",
        "smollm",
        "yi",
    ),
)
"""Names by which models of one maker are known; one counts where it stands as a word, with or without a number."""


def warnings_of(judge: str, models: Sequence[tuple[str, str]]) -> list[str]:
    """Sentences about models that the judge may favour; none for a judge that is no language model.

    Args:
      judge: Name of the judge.
      models: Name and folder of each model that it judges.
    """
    found = find_llm(judge)
    if found is None:
        return []
    own = families_in(Path(found.model.removeprefix("hf:")).name)
    name = identify(judge)
    warnings = []
    for model, place in models:
        if same := sorted(own & families_of(place)):
            warnings.append(
                f"{model} and the judge {found.model} are of one family ({', '.join(same)}), and judges favour "
                "their own; compare with a judge of another family"
            )
        if labels := sorted(set(_labels_of(place)) & {judge, name}):
            warnings.append(
                f"{model} was trained on verdicts of the judge itself ({labels[0]}), so a win shows obedience; "
                "compare with another judge"
            )
    return warnings


def families_in(name: str) -> set[str]:
    """Families that a model's name speaks of."""
    words = re.findall(r"[a-z]+", name.lower())
    return {family for family in FAMILIES if family in words}


def families_of(place: str) -> set[str]:
    """Families of a model by its folder's name, its configuration, and the models that it was trained from."""
    families = families_in(Path(place).name)
    for folder in (Path(place), *(Path(start) for start in _ancestors(place))):
        families |= families_in(folder.name)
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        families |= families_in(str(config.get("model_type", ""))) | families_in(str(config.get("_name_or_path", "")))
    return families


def _ancestors(place: str) -> Iterator[str]:
    """The models that a run's model started from, as far as their folders say."""
    seen: set[Path] = set()
    while (parent := Path(place).resolve().parent) not in seen and (summary := read_summary(parent)) is not None:
        seen.add(parent)
        if "model" not in summary.config:
            return
        place = str(Path(str(summary.config["model"])).expanduser())
        yield place


def _labels_of(place: str) -> Iterator[str]:
    """Judges and rewards that the data of a model's runs come from."""
    for start in (place, *_ancestors(place)):
        summary = read_summary(Path(start).resolve().parent)
        if summary is None:
            continue
        if "reward" in summary.config:
            yield str(summary.config["reward"])
        data = summary.config.get("data")
        if isinstance(data, dict) and str(data.get("path", "")).endswith(".jsonl"):
            yield from _judges_in(Path(data["path"]).expanduser())


def _judges_in(path: Path) -> Iterator[str]:
    """The judge that a file of verdicts names in its first row."""
    try:
        with path.open(encoding="utf-8") as file:
            row = json.loads(file.readline())
    except (OSError, ValueError):
        return
    if isinstance(row, dict) and isinstance(row.get("judge"), str):
        yield row["judge"]

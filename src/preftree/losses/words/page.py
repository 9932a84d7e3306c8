"""The part of docs/losses.md that is written from the docstrings: a table, and a section a loss."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from preftree.losses.types import LossSpec
from preftree.losses.words.describe import Description, describe
from preftree.losses.words.latex import to_latex

_FAMILIES: Mapping[str, Callable[[LossSpec], bool]] = {
    "Pairs, against a reference": lambda spec: spec.kind == "pair" and _has_reference(spec) and spec.scope != "step",
    "Pairs, against a reference and the whole step": lambda spec: spec.kind == "pair" and spec.scope == "step",
    "Pairs, without a reference": lambda spec: spec.kind == "pair" and not _has_reference(spec),
    "Single responses with a label": lambda spec: spec.kind == "response",
    "Lists": lambda spec: spec.kind == "list",
    "Demonstrations": lambda spec: spec.kind == "demonstration",
}


def markdown_page(losses: Mapping[str, LossSpec]) -> str:
    """A table of all losses by family, and a section on each."""
    described = {name: describe(spec) for name, spec in losses.items()}
    parts = []
    for family, holds in _FAMILIES.items():
        names = [name for name, spec in losses.items() if holds(spec)]
        rows = [
            f"| [`{name}`](#{name}) | {_cell(described[name].summary)} | {_needs(described[name])} |" for name in names
        ]
        parts.append("\n".join([f"### {family}", "", "| loss | in a sentence | needs |", "|---|---|---|", *rows]))
    sections = [_section(name, losses[name], words) for name, words in described.items()]
    return "\n\n".join([*parts, "## Each loss", *sections])


def _section(name: str, spec: LossSpec, words: Description) -> str:
    formulas = "\n".join(rf"\[{to_latex(line, spec.options)}\]" + "\n" for line in words.formula)
    code = "\n".join(words.formula)
    rows = [
        ("options", "<br>".join(map(_cell, words.options)) or "none"),
        ("needs", _needs(words)),
        ("at policy == reference", _cell(words.at_reference.rstrip("."))),
        ("source", _linked(words.source.rstrip("."))),
    ]
    if spec.trl:
        rows.append(("in TRL", ", ".join(f"`{alias}`" for alias in spec.trl)))
    table = "\n".join(["| | |", "|---|---|", *(f"| {title} | {text} |" for title, text in rows)])
    return "\n\n".join(
        [f"### {name} {{#{name}}}", words.summary, formulas.rstrip(), f"```text\n{code}\n```", *words.remarks, table]
    )


def _has_reference(spec: LossSpec) -> bool:
    return any(name.startswith("ref") for name in spec.inputs) or "kl" in spec.inputs


def _needs(words: Description) -> str:
    return ", ".join(words.needs) or "pairs alone"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _linked(source: str) -> str:
    return _cell(re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", source))

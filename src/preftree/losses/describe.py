"""A loss in words: what its docstring, its signature and its row in the table say, part by part."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from preftree.losses.spec import LossSpec, inputs_of, options_of

_NEEDS = {
    "ref": "reference",
    "policy_tokens": "token log-probs",
    "kl": "KL per token",
    "confidence": "token confidence",
    "margins": "margins",
    "other_margins": "margins of another objective",
    "win_prob": "win probabilities",
    "ties": "tie flags",
    "costs": "costs",
    "responses": "single responses",
    "desirable": "labels",
    "mismatched": "mismatched responses",
    "policy_lists": "lists",
    "list_scores": "scores",
    "uniforms": "random numbers",
    "state": "running state",
    "logps": "demonstrations",
}
"""What an input means to whoever brings the data; the rest of INPUTS follows from these."""


@dataclass(frozen=True, slots=True)
class Description:
    """A loss in words.

    Attributes:
      summary: What it is, one line.
      formula: The lines of its formula.
      options: Name, default and range of each option.
      needs: What it needs beside pairs.
      at_reference: Its value where policy == reference.
      source: Where it stands.
    """

    summary: str
    formula: tuple[str, ...]
    options: tuple[str, ...]
    needs: tuple[str, ...]
    at_reference: str
    source: str


def describe(spec: LossSpec) -> Description:
    """A loss in words, from its docstring and its signature."""
    text = inspect.getdoc(spec.function) or ""
    formula = text.split("\n\n")[1].splitlines()
    lines: list[str] = []
    for line in formula:
        if line.startswith(" "):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    found = re.search(r"^At policy == reference: (.*?)(?=^\S)", text, re.DOTALL | re.MULTILINE)
    return Description(
        summary=spec.summary,
        formula=tuple(lines),
        options=tuple(f"{name} {option}" for name, option in options_of(spec).items()),
        needs=needs_of(spec),
        at_reference=" ".join(found[1].split()) if found else "",
        source=spec.source,
    )


def needs_of(spec: LossSpec) -> tuple[str, ...]:
    """What a loss needs beside pairs, in words."""
    inputs = inputs_of(spec)
    needs = [_NEEDS[name] for name in inputs if name in _NEEDS]
    if "ref" not in inputs and any(name.startswith("ref") for name in inputs):
        needs.append("reference")
    return (*needs, "the whole step") if spec.scope == "step" else tuple(needs)


def markdown_table(losses: dict[str, LossSpec]) -> str:
    """The table of docs/losses.md."""
    rows = ["| name | formula | options | needs | at policy == reference | source | TRL |", "|" + "---|" * 7]
    for name, spec in losses.items():
        told = describe(spec)
        cells = (
            f"`{name}`",
            f"{told.summary}<br>" + "<br>".join(f"`{line}`" for line in told.formula),
            "<br>".join(told.options) or "none",
            ", ".join(told.needs) or "pairs alone",
            told.at_reference.rstrip("."),
            re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", told.source.rstrip(".")),
            ", ".join(f"`{alias}`" for alias in spec.trl),
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)

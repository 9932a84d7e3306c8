"""Description of a loss, from its docstring, its signature, its family and its row in the table."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from itertools import chain

from preftree.losses.types import LossSpec
from preftree.records import FIGURES

_NEEDS = {
    "ref": "reference",
    "policy_tokens": "token log-probs",
    "kl": "KL per token",
    "confidence": "token confidence",
    "ties": "tie flags",
    "responses": "single responses",
    "desirable": "labels",
    "mismatched": "mismatched responses",
    "policy_lists": "lists",
    "uniforms": "random numbers",
    "state": "running state",
    "logps": "demonstrations",
    **{figure.input: figure.title for figure in FIGURES.values()},
}
"""Names of the inputs that the data must provide; the other inputs follow from these."""

_SECTIONS = ("Args", "Returns", "Raises")


@dataclass(frozen=True, slots=True)
class Description:
    """A loss in words.

    Attributes:
      summary: First line of its docstring.
      formula: Lines of its formula.
      remarks: Paragraphs after the formula.
      options: Name, default and range of each option.
      needs: Data that it needs in addition to pairs.
      at_reference: Its value where policy == reference.
      source: Origin of the formula.
    """

    summary: str
    formula: tuple[str, ...]
    remarks: tuple[str, ...]
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
    value = re.search(r"^At policy == reference: (.*?)(?=^\S)", text, re.DOTALL | re.MULTILINE)
    return Description(
        summary=spec.summary,
        formula=tuple(lines),
        remarks=tuple(" ".join(part.split()) for part in _before_sections(text).split("\n\n")[2:]),
        options=tuple(f"{name} {option}" for name, option in spec.options.items()),
        needs=needs_of(spec),
        at_reference=" ".join(value[1].split()) if value else "",
        source=spec.source,
    )


def full_text(spec: LossSpec) -> str:
    """The docstring of a loss, with the arguments, the result and the errors that its file or its folder describes."""
    text = inspect.getdoc(spec.function) or ""
    module = inspect.unwrap(spec.function).__module__
    documents = [sys.modules.get(name) for name in (module.rpartition(".")[0], module)]
    shared = [_sections(inspect.getdoc(document) or "") for document in documents if document is not None]
    sections = [*shared, _sections(text)]
    args = {name: lines for section in sections for name, lines in section["Args"].items()}
    returns = next((section["Returns"] for section in reversed(sections) if section["Returns"]), {})
    parts = {
        "Args": [args[name] for name in (*spec.inputs, *spec.options) if name in args],
        "Returns": list(returns.values()),
        "Raises": [lines for section in sections for lines in section["Raises"].values()],
    }
    described = [line for name, entries in parts.items() if entries for line in (f"{name}:", *chain(*entries))]
    before = _before_sections(text)
    after = re.search(r"^(?:At |Source: ).*", text, re.DOTALL | re.MULTILINE)
    return "\n".join([before, "", *described, *([after[0]] if after else [])])


def _before_sections(text: str) -> str:
    """A docstring's summary, formula and remarks."""
    return re.split(r"^(?:Args|Returns|Raises|At |Source: )", text, maxsplit=1, flags=re.MULTILINE)[0].rstrip()


def _sections(text: str) -> dict[str, dict[str, list[str]]]:
    """Entries of a docstring's Args, Returns and Raises: lines by the name before the colon."""
    sections: dict[str, dict[str, list[str]]] = {name: {} for name in _SECTIONS}
    entries: dict[str, list[str]] | None = None
    entry: list[str] = []
    for line in text.splitlines():
        if heading := re.match(rf"({'|'.join(_SECTIONS)})\b.*:$", line):
            entries = sections[heading[1]]
        elif not line.startswith("  "):
            entries = None
        elif entries is not None:
            if not line.startswith("   "):
                entry = entries[line.partition(":")[0].strip()] = []
            entry.append(line)
    return sections


def needs_of(spec: LossSpec) -> tuple[str, ...]:
    """Data that a loss needs in addition to pairs, in words."""
    needs = [_NEEDS[name] for name in spec.inputs if name in _NEEDS]
    if "ref" not in spec.inputs and any(name.startswith("ref") for name in spec.inputs):
        needs.append("reference")
    return (*needs, "the whole step") if spec.scope == "step" else tuple(needs)

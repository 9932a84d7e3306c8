"""How byte-level vocabularies split text before their merges, by the name that a GGUF file gives it.

The file holds vocabulary and merges, and of the splitting its name alone (`tokenizer.ggml.pre`). The expressions are
those of the tokenizers of GPT-2, Llama 3, Qwen2 and SmolLM (their tokenizer.json); llama.cpp's src/llama-vocab.cpp has
the same ones under these names. transformers' reader knows some names, and takes GPT-2's splitting for all others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_WORDS}|\p{{N}}|{_REST}"


@dataclass(frozen=True, slots=True)
class Splitting:
    """A way to split text.

    Attributes:
      expression: Isolated matches are the pieces; None for GPT-2's own, which ByteLevel has.
      digits: Whether each digit is a piece.
      composes: Whether text is brought to NFC first; llama.cpp leaves it as it is.
      ignores_merges: Whether a piece that is a token is taken without merging.
      adds_bos: Whether a BOS is put before a text where the file does not say.
    """

    expression: str | None = None
    digits: bool = False
    composes: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """It, as the library tokenizers has it."""
        steps: list[pre_tokenizers.PreTokenizer] = (
            [pre_tokenizers.Digits(individual_digits=True)] if self.digits else []
        )
        if self.expression is not None:
            steps.append(pre_tokenizers.Split(Regex(self.expression), behavior="isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.expression is None))
        return pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]


SPLITTINGS = {
    "gpt-2": Splitting(),
    "smollm": Splitting(digits=True),
    "llama-bpe": Splitting(_LLAMA3, ignores_merges=True, adds_bos=True),
    "qwen2": Splitting(_QWEN2, composes=True),
}
"""By the value of tokenizer.ggml.pre."""

_SAME = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}
"""Other names of the same."""


def splitting_named(name: object) -> Splitting | None:
    """The splitting that a file names, or None for a name that is not known here."""
    return SPLITTINGS.get(_SAME.get(name, name)) if isinstance(name, str) else None


def apply_splitting(tokenizer: Tokenizer, splitting: Splitting) -> None:
    """Make a byte-level tokenizer split text in this way."""
    tokenizer.pre_tokenizer = splitting.pre_tokenizer()
    if splitting.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.model.ignore_merges = splitting.ignores_merges  # pyright: ignore[reportAttributeAccessIssue]  # BPE has it


def name_splitting(tokenizer: Tokenizer) -> str | None:
    """The name under which a GGUF file says how a tokenizer splits text; None where it is none of the known ones.

    A tokenizer that differs in one property alone, such as merges that are ignored, is none of them.
    """
    described = json.loads(tokenizer.to_str())
    model, normalizer = described["model"], described.get("normalizer")
    for name, splitting in SPLITTINGS.items():
        wanted = Tokenizer(type(tokenizer.model)())
        wanted.pre_tokenizer = splitting.pre_tokenizer()
        same = _essence(described["pre_tokenizer"]) == _essence(json.loads(wanted.to_str())["pre_tokenizer"])
        forms = ("NFC",) if splitting.composes else ()
        if (
            same
            and bool(model.get("ignore_merges")) == splitting.ignores_merges
            and tuple(step.get("type") for step in _steps(normalizer, "normalizers")) == forms
        ):
            return name
    return None


def _essence(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps that split text, without the property that moves offsets only."""
    steps = _steps(pre_tokenizer, "pretokenizers")
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]


def _steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    return [step for each in part[inner] for step in _steps(each, inner)]

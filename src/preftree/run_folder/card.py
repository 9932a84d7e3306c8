"""The model card: model, data, figures and options of a run, as README.md."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from preftree import __version__
from preftree.config.load import AnyConfig, dump_config
from preftree.config.loss import loss_label
from preftree.config.recipes import RECIPES


def model_card(
    config: AnyConfig,
    summary: Mapping[str, object],
    *,
    place: str | None = None,
    adapter: bool | None = None,
    dtype: str = "float32",
    base_dtype: str | None = None,
    gguf: str | None = None,
    licence: str | None = None,
    more: str = "",
) -> str:
    """README.md of a trained model, with the metadata that the Hugging Face hub reads.

    Args:
      config: The run's resolved options.
      summary: Content of RUN/summary.json: counts, digests, figures.
      place: Folder from which the card's code loads the model; None is that of the run.
      adapter: Whether the folder holds an adapter; None is what the run trained.
      dtype: Dtype of the stored weights.
      base_dtype: Dtype of the weights that training started from, where it is known, or "dequantised from" and types.
      gguf: Name of the GGUF file that the folder holds instead of a folder's files.
      licence: Licence of the model that training started from, as the hub names it.
      more: Sections before the options.
    """
    recipe = RECIPES[config.recipe]
    is_adapter = config.lora is not None if adapter is None else adapter
    library, kind = ("peft", "AutoPeftModelForCausalLM") if is_adapter else ("transformers", "AutoModelForCausalLM")
    about: dict[str, object] = {"license": licence} if licence else {}
    about |= {
        "library_name": library if gguf is None else "gguf",
        "tags": ["preftree", recipe.name],
        "pipeline_tag": "text-generation",
    }
    if recipe.trains == "reward_model":
        kind, about["pipeline_tag"] = "AutoModelForSequenceClassification", "text-classification"
    if not Path(config.model).exists() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", config.model):
        about["base_model"] = config.model
    stored = _stored(dtype, base_dtype, gguf)
    if is_adapter:
        over = f", over weights {base_dtype}" if _is_dequantised(base_dtype) else ""
        stored = f"This is its adapter, not merged, in safetensors format{over}"
    folder = Path(place or Path(config.out) / "model").expanduser().resolve()
    name = Path(place or config.out).name
    rows = "\n".join(f"| {html.escape(name)} | {_show(value)} |" for name, value in _facts(summary).items())
    ends = ""
    if is_adapter:  # peft reads the base's settings alone
        ends = "model.generation_config = GenerationConfig.from_pretrained(folder)\n"
    imports = f"from transformers import {kind}, AutoTokenizer"
    if is_adapter:
        imports = f"from {library} import {kind}\nfrom transformers import AutoTokenizer, GenerationConfig"
    code = f"""{imports}

folder = {str(folder)!r}  # where it was written
model = {kind}.from_pretrained(folder)
{ends}tokenizer = AutoTokenizer.from_pretrained(folder)
"""
    if gguf is not None:
        code = f"""from llama_cpp import Llama  # pip install llama-cpp-python

model = Llama({str(folder / gguf)!r}, n_ctx=0)  # where it was written
"""
    options = f"{dump_config(config).strip()}\n"
    return f"""---
{yaml.safe_dump(about, sort_keys=False).strip()}
---

# {html.escape(" ".join(name.split()))}

{code_span(config.model)}, {_deed(config)} by Preftree {__version__}. {stored}.

{fenced(code, "python")}

## The run

| | |
|---|---|
{rows}

Means are over examples, weighted by the data's weights; intervals are 95 % intervals by prompt. Log-probs are in nats.
{more}
## Options

The same options and data on the same kind of machine give the same model again.

{fenced(options, "yaml")}
"""


def code_span(text: str) -> str:
    """Text as code within a line of Markdown, whatever it holds."""
    text = " ".join(text.split()) or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    padding = " " if "`" in text else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def fenced(text: str, language: str) -> str:
    """Lines of code in Markdown, whatever they hold; `text` ends with a line break."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text}{fence}"


def _stored(dtype: str, base_dtype: str | None, gguf: str | None) -> str:
    words = f"The weights are {dtype} in {'safetensors format' if gguf is None else code_span(gguf)}"
    if base_dtype in (None, dtype):
        return words
    if _is_dequantised(base_dtype):
        return f"{words} (training started from weights {base_dtype})"
    if dtype != "float32":
        return f"{words} (training started from {base_dtype})"
    return (
        f"{words}, in which they were trained (training started from {base_dtype}, and rounding to it would lose small "
        f"updates; `preftree export RUN OUT --merged --dtype {base_dtype}` rounds them)"
    )


def _is_dequantised(dtype: str | None) -> bool:
    return dtype is not None and dtype.startswith("dequantised")


def _deed(config: AnyConfig) -> str:
    recipe, options = RECIPES[config.recipe], config.model_dump()
    match recipe.reads:
        case "demonstrations":
            return f"{recipe.deed} demonstrations"
        case "preferences":
            return (
                f"{recipe.deed} preferences with the loss {code_span(loss_label(options.get('loss') or recipe.name))}"
            )
        case "prompts":
            return f"{recipe.deed} the reward {code_span(str(options['reward']))}"


def _facts(summary: Mapping[str, object]) -> dict[str, object]:
    """The summary as one level of names, without the options, which follow in full."""
    facts: dict[str, object] = {}
    for name, value in summary.items():
        if not isinstance(value, Mapping):
            facts[name.replace("_", " ")] = value
        elif name == "held_out":
            facts |= {f"held out: {inner.replace('_', ' ')}": figure for inner, figure in value.items()}
        elif name == "trajectory":
            facts |= {inner: digest for inner, digest in value.items() if inner.startswith(("weights", "training"))}
        elif name == "environment":
            facts |= value
    return facts


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return html.escape(" ".join(str(value).split()), quote=False).replace("|", "\\|")

"""The model card: model, data, figures and options of a run, as README.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from preftree import __version__
from preftree.config.load import dump_config
from preftree.config.loss import loss_label
from preftree.config.recipes import RECIPES, AnyConfig


def model_card(
    config: AnyConfig,
    summary: Mapping[str, object],
    *,
    place: str | None = None,
    adapter: bool | None = None,
    dtype: str = "fp32",
    more: str = "",
) -> str:
    """README.md of a trained model, with the metadata that the Hugging Face hub reads.

    Args:
      config: The run's resolved options.
      summary: Content of RUN/summary.json: counts, digests, figures.
      place: Place from which the card's code loads the model; None is the run's folder.
      adapter: Whether the folder holds an adapter; None is what the run trained.
      dtype: Dtype of the stored weights, for people.
      more: Sections before the options.
    """
    recipe = RECIPES[config.recipe]
    is_adapter = config.lora is not None if adapter is None else adapter
    library, kind = ("peft", "AutoPeftModelForCausalLM") if is_adapter else ("transformers", "AutoModelForCausalLM")
    about = {"library_name": library, "tags": ["preftree", recipe.name], "pipeline_tag": "text-generation"}
    if recipe.trains == "reward_model":
        kind, about["pipeline_tag"] = "AutoModelForSequenceClassification", "text-classification"
    if not Path(config.model).exists():
        about["base_model"] = config.model
    stored = (
        "This is its adapter, not merged, in safetensors format"
        if is_adapter
        else f"The weights are {dtype} in safetensors format"
    )
    name = Path(place or config.out).name
    place = place or f"{name}/model"
    rows = "\n".join(f"| {name} | {_show(value)} |" for name, value in _facts(summary).items())
    return f"""---
{yaml.safe_dump(about, sort_keys=False).strip()}
---

# {name}

`{config.model}`, {_deed(config)} by Preftree {__version__}. {stored}.

```python
from {library} import {kind}
from transformers import AutoTokenizer

model = {kind}.from_pretrained("{place}")
tokenizer = AutoTokenizer.from_pretrained("{place}")
```

## The run

| | |
|---|---|
{rows}

Means are over examples, weighted by the data's weights; intervals are 95 % intervals by prompt. Log-probs are in nats.
{more}
## Options

The same options and data on the same kind of machine give the same model again.

```yaml
{dump_config(config).strip()}
```
"""


def _deed(config: AnyConfig) -> str:
    recipe, options = RECIPES[config.recipe], config.model_dump()
    match recipe.reads:
        case "demonstrations":
            return f"{recipe.deed} demonstrations"
        case "preferences":
            return f"{recipe.deed} preferences with the loss `{loss_label(options.get('loss') or recipe.name)}`"
        case "prompts":
            return f"{recipe.deed} the reward `{options['reward']}`"


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
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")

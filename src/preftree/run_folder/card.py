"""The model card: what was trained from what, on which rows, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from preftree import __version__
from preftree.config.dpo import DpoConfig
from preftree.config.load import dump_config
from preftree.config.online import PpoConfig, RlooConfig
from preftree.config.recipes import AnyConfig
from preftree.config.reward import RewardConfig
from preftree.config.sft import SftConfig


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
      summary: What RUN/summary.json says: counts, digests, figures.
      place: Where the card's code loads the model from; None is the run's own folder.
      adapter: Whether the folder holds an adapter; None is what the run trained.
      dtype: Of the stored weights, for people.
      more: Sections to stand before the options.
    """
    recipe = config.recipe
    is_adapter = config.lora is not None if adapter is None else adapter
    library, kind = ("peft", "AutoPeftModelForCausalLM") if is_adapter else ("transformers", "AutoModelForCausalLM")
    about = {"library_name": library, "tags": ["preftree", recipe], "pipeline_tag": "text-generation"}
    if isinstance(config, RewardConfig):
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

Means are over examples, weighted by the data's weights; intervals are 95 % Wilson intervals. Log-probs are in nats.
{more}
## Options

The same options and data on the same kind of machine give the same model again.

```yaml
{dump_config(config).strip()}
```
"""


def _deed(config: AnyConfig) -> str:
    if isinstance(config, DpoConfig):
        return f"optimised on preference pairs with the loss `{config.loss_label}`"
    if isinstance(config, RewardConfig):
        return f"made a reward model from preferences with the loss `{config.loss.name}`"
    if isinstance(config, SftConfig):
        return "fine-tuned on demonstrations"
    assert isinstance(config, PpoConfig | RlooConfig)
    return f"optimised by {config.recipe.upper()} for the reward `{config.reward}`"


def _facts(summary: Mapping[str, object]) -> dict[str, object]:
    """The summary as one level of names, without the options, which stand below in full."""
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

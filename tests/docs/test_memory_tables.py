"""The tables of docs/fit_memory.md are those of the formulas, for shapes counted by transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

PAGE = (Path(__file__).parents[2] / "docs" / "fit_memory.md").read_text("utf-8")
RANK = 16


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, with the letters of docs/design.md."""

    name: str
    width: int
    inner: int
    layers: int
    heads: int
    groups: int
    vocabulary: int
    tied: bool = True

    def model(self) -> nn.Module:
        config = transformers.LlamaConfig(
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.groups,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
        )
        with torch.device("meta"):
            return transformers.LlamaForCausalLM(config)


SHAPES = [
    Shape("SmolLM2-135M", 576, 1536, 30, 9, 3, 49_152),
    Shape("Qwen2.5-0.5B", 896, 4864, 24, 14, 2, 151_936),
    Shape("Llama-3.2-1B", 2048, 8192, 16, 32, 8, 128_256),
    Shape("Qwen2.5-3B", 2048, 11_008, 36, 16, 2, 151_936),
    Shape("Llama-3.1-8B", 4096, 14_336, 32, 32, 8, 128_256, tied=False),
    Shape("Qwen2.5-14B", 5120, 13_824, 48, 40, 8, 152_064, tied=False),
]


def gb(number: float) -> str:
    return f"{number / 1e9:.2g}" if number < 10e9 else f"{number / 1e9:.0f}"


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_tables_follow_from_the_formulas(shape: Shape) -> None:
    model = shape.model()
    weights = sum(parameter.numel() for parameter in model.parameters())
    linear = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not name.endswith("lm_head")  # the LM head is not adapted
    ]
    in_layers = sum(layer.weight.numel() for layer in linear)
    adapter = sum(RANK * (layer.in_features + layer.out_features) for layer in linear)
    frozen = {"fp32": 4 * weights, "nf4": 0.52 * in_layers + 4 * (weights - in_layers)}
    held = [16 * weights, 12 * weights, 10.03 * weights, *(each + 16 * adapter for each in frozen.values())]
    row = f"| {shape.name} | {weights / 1e9:.2f} | " + " | ".join(map(gb, held)) + " |"
    assert row in PAGE

    share = shape.groups / shape.heads
    width, inner, heads = shape.width, shape.inner, shape.heads
    fp32 = 16 * width + 4 * width + 4 * width + 8 * width * share + 4 * width + 4 * heads + 4 * width + 16 * inner
    bf16 = 16 * width + 6 * width + 2 * width + 4 * width * share + 2 * width + 4 * heads + 4 * width + 8 * inner
    thousand = [1000 * shape.layers * each for each in (fp32, bf16, 4 * width)]
    row = f"| {shape.name} | " + " | ".join(map(gb, thousand)) + " |"
    assert row in PAGE

"""A scorer that counts its forwards, and the steps from a model to a filled reference table."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from preftree.reference.build import BuildReport, build_reference
from preftree.reference.key import table_key, weights_digest_of_model
from preftree.reference.store import ReferenceTable
from preftree.scoring.scorer import Precision, Scorer
from preftree.tree.layout import TokenSequence, TreeBatch
from support.models import random_sequences

if TYPE_CHECKING:
    from peft import PeftModel


class CountingScorer(Scorer):
    """Counts forwards and responses, apart from what any report says and from the trials when it is made."""

    forwards = 0
    responses = 0

    def __init__(self, model: PreTrainedModel, *, precision: Precision = "fp32") -> None:
        super().__init__(model, precision=precision)
        self.forwards = self.responses = 0

    def forward(self, batch: TreeBatch) -> Tensor:
        self.forwards += 1
        self.responses += len(batch.count_R)
        return super().forward(batch)


def table_of(root: Path, scorer: Scorer) -> ReferenceTable:
    return ReferenceTable.open(root, table_key(weights_digest_of_model(scorer.model), scorer.numeric_mode))


def build(
    root: Path, scorer: Scorer, groups: Sequence[Sequence[TokenSequence]], budget: int = 512
) -> tuple[ReferenceTable, BuildReport]:
    table = table_of(root, scorer)
    return table, build_reference(table, scorer, groups, budget=budget)


def with_adapter(model: PreTrainedModel, *, seed: int, zero: bool = False) -> PeftModel:
    """The model with a random LoRA adapter, or with one that changes nothing yet."""
    from peft import LoraConfig, get_peft_model  # seconds to import

    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=zero)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def some_pairs(number: int, *, seed: int = 0, prompt: int = 30, most: int = 25) -> list[list[TokenSequence]]:
    rng = np.random.default_rng(seed)
    return [
        random_sequences(rng, responses=2, prompt=int(rng.integers(1, prompt + 1)), most=most) for _ in range(number)
    ]

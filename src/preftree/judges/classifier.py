"""Rewards of a text classifier: the probability of one of its labels, such as POSITIVE of a sentiment model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from preftree.errors import ConfigError, JudgeError, ModelError
from preftree.models.foreign import foreign, without_load_warnings
from preftree.models.load import check_name
from preftree.records import Text
from preftree.runtime.machine import best_device


class Classifier:
    """A classifier and its tokenizer: texts in, probabilities of one label out.

    It reads prompt and response as one text, with nothing between them, through its own tokenizer and forward. Any
    architecture serves that transformers has a sequence classifier of: nothing is trained here, and no tree is built.
    """

    def __init__(self, name: str, label: str, *, device: torch.device | str | None = None, budget: int = 8192) -> None:
        """Load the model, fp32.

        Args:
          name: A folder, or a hub id.
          label: The label whose probability is the reward, by its name in the model's configuration.
          device: Device of the model; by default the first GPU, or the CPU.
          budget: Most tokens of a forward, padding included; more where a text alone has more.
        Raises:
          ConfigError: the model has no such label.
          ModelError: it cannot be loaded as a classifier, or lacks weights.
        """
        self._model, self._tokenizer = _load(name)
        labels = {str(name): number for number, name in (self._model.config.id2label or {}).items()}
        if len(labels) < 2 or label not in labels:
            known = f"has the labels {', '.join(labels)}" if len(labels) > 1 else "gives one number and has no labels"
            raise ConfigError(f"reward rm:{name}:{label}: the model {known}; name one of them after the colon")
        self._label, self._place, self._budget = labels[label], name, budget
        self._limit = _longest(self._model, self._tokenizer)
        self._model.to(device or best_device())  # pyright: ignore[reportArgumentType]  # transformers wraps the method
        self._model.eval()

    def __call__(self, prompts: Sequence[Text], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Probabilities of the label, in [0, 1], float64, so that sure texts still differ.

        Raises:
          JudgeError: a prompt is a conversation, a text is too long for the model, or a figure is not finite.
        """
        texts = [self._joined(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        ids = self._tokenizer(texts)["input_ids"] if texts else []
        sizes = np.array([len(tokens) for tokens in ids], np.int64)
        if len(long := np.flatnonzero(sizes > self._limit)):
            raise JudgeError(
                f"classifier {self._place} reads {self._limit} tokens at most, and one text makes {sizes[long[0]]} "
                f"({texts[long[0]][:60]!r}); sample shorter responses"
            )
        chances = np.zeros(len(texts))
        order = np.argsort(sizes, kind="stable")[::-1]
        while len(order):
            count = max(1, self._budget // int(sizes[order[0]]))
            rows, order = order[:count].tolist(), order[count:]
            chances[rows] = self._forward([ids[row] for row in rows])
        if len(bad := np.flatnonzero(~np.isfinite(chances))):
            raise JudgeError(f"classifier {self._place} gives {chances[bad[0]]} for {texts[bad[0]][:60]!r}")
        return chances

    def _joined(self, prompt: Text, response: str) -> str:
        if not isinstance(prompt, str):
            raise JudgeError(
                f"classifier {self._place} reads plain text, and a prompt is a conversation; give plain prompts, or a "
                "reward model"
            )
        return prompt + response

    def _forward(self, ids: list[list[int]]) -> Float[np.ndarray, " N"]:
        padded = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits
        each = self._model.config.problem_type == "multi_label_classification"  # labels do not exclude one another
        logits = logits.double()
        return (logits.sigmoid() if each else logits.softmax(-1))[:, self._label].cpu().numpy()


def _load(name: str) -> tuple[PreTrainedModel, Any]:
    check_name(name)
    with foreign(f"model '{name}' cannot be loaded as a classifier"), without_load_warnings():
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(f"model '{name}' lacks weights for {', '.join(missing[:3])}, so it is no classifier")
    if tokenizer.pad_token is None:
        raise ModelError(f"the tokenizer of '{name}' has no padding token, which a classifier's batches need")
    return model, tokenizer


def _longest(model: PreTrainedModel, tokenizer: Any) -> int:
    """Most tokens of a text: what the tokenizer says, or the rows of a table of positions."""
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    known = int(tokenizer.model_max_length)
    if not isinstance(table, torch.nn.Embedding):
        return known
    reserved = 0 if table.padding_idx is None else table.padding_idx + 1  # RoBERTa counts from behind its padding
    return min(known, table.num_embeddings - reserved)

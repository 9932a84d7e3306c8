"""Preftree: preferences in, an aligned language model out.

The road, in order: records -> data -> tree -> scoring -> reference -> losses -> train -> a model folder.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preftree.api import dpo, load, loss, measure, ppo, reward_model, rloo, sample, score, sft, tokenize

__version__ = "0.1.0"

__all__ = [
    "dpo",
    "load",
    "loss",
    "measure",
    "ppo",
    "reward_model",
    "rloo",
    "sample",
    "score",
    "sft",
    "tokenize",
]


def __getattr__(name: str) -> Any:
    """Import the Python API when it is first used: `import preftree` alone loads no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'preftree' has no attribute {name!r}")
    from preftree import api

    return getattr(api, name)

"""Rewards by name, as a function of a prompt and a response: of a world, or of the user's code."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, TypeAlias

from preftree.errors import ConfigError, JudgeError
from preftree.judges.llm.specs import find_llm, identify_llm
from preftree.judges.reward_model import find_reward_model, model_digest
from preftree.runtime.user_code import boundary, file_hash, is_place, load_function
from preftree.worlds.grammar import World, reward
from preftree.worlds.sentiment import WORLDS

Reward: TypeAlias = Callable[[Any, str], float]
"""(prompt, response) -> reward; the prompt is text, or a list of messages where its file has a conversation."""


def find_world(spec: str) -> World | None:
    """The world that `world:NAME` names; None where the spec is of another kind.

    Raises:
      ConfigError: no world has this name.
    """
    kind, _, name = spec.partition(":")
    if kind != "world":
        return None
    if name not in WORLDS:
        raise ConfigError(f"reward {spec!r} names no world; worlds are {', '.join(WORLDS)}")
    return WORLDS[name]


def identify(spec: str) -> str:
    """The name of a reward with a digest of its file or its weights, which identifies what a figure was measured with.

    Raises:
      ConfigError: there is no such world or reward model.
    """
    model = find_reward_model(spec)
    if model is not None:
        return f"{spec} {model_digest(model)}"
    if find_world(spec) is not None:
        return spec
    judge = find_llm(spec, "pointwise")
    if judge is not None:
        return identify_llm(spec, judge)
    digest = file_hash(spec)
    return f"{spec} {digest[:16]}" if digest else spec


def load_reward(spec: str) -> Reward:
    """A reward of one response: `world:small`, `rules.py:brevity` (a file) or `package.module:brevity`.

    The function gets a prompt and a response and returns a finite number; the code of a file or module runs with the
    user's rights.

    Raises:
      ConfigError: there is no such world, file, module or function.
    """
    world = find_world(spec)
    if world is not None:
        return lambda prompt, response: reward(world, prompt, response)
    if not is_place(spec):
        raise ConfigError(
            "reward must be world:NAME, rm:FOLDER, llm:FILE.yaml, openai:MODEL@URL, FILE.py:FUNCTION or "
            f"MODULE:FUNCTION, got {spec!r}"
        )
    function, _ = load_function(spec, f"reward {spec!r}")

    def checked(prompt: Any, response: str) -> float:
        with boundary(f"reward {spec!r}", JudgeError, f" on the response {response[:60]!r}"):
            value = function(prompt, response)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise JudgeError(f"reward {spec!r} must return a finite number, got {value!r} for {response[:60]!r}")
            return float(value)

    return checked

"""Rewards by name, as a function of a prompt and a response: of a world, of the user's code, or of a reward model."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import numbers
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from preftree.data.records.fields import messages
from preftree.errors import ConfigError, JudgeError
from preftree.judges.reward_model import find_reward_model, model_digest, open_reward_model
from preftree.records import Text
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
      ConfigError: as `load_reward`, of a world or a reward model.
    """
    model = find_reward_model(spec)
    if model is not None:
        return f"{spec} {model_digest(model)}"
    module, _, _ = spec.rpartition(":")
    if find_world(spec) is not None:
        return spec
    file = Path(module).expanduser()
    if not module.endswith(".py"):
        origin = importlib.util.find_spec(module)
        file = Path((origin and origin.origin) or "")
    return f"{spec} {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}" if file.is_file() else spec


def load_reward(spec: str) -> Reward:
    """A reward by its name: `world:small`, `rules.py:brevity` (a file), `package.module:brevity`, or a model: `rm:PATH`
    or the path of a reward model's folder or run, `rm:PATH:LABEL` for a classifier's probability of a label.

    The function gets a prompt and a response and returns a finite number; the code of a file or module runs with the
    user's rights.

    Raises:
      ConfigError: there is no such world, file, module or function.
    """
    world = find_world(spec)
    if world is not None:
        return lambda prompt, response: reward(world, prompt, response)
    model_name = find_reward_model(spec)
    if model_name is not None:
        model = open_reward_model(model_name)
        return lambda prompt, response: float(model([_text(prompt)], [response])[0])
    module, colon, name = spec.rpartition(":")
    if not colon or not module or not name.isidentifier():
        raise ConfigError(f"reward must be world:NAME, rm:FOLDER, FILE.py:FUNCTION or MODULE:FUNCTION, got {spec!r}")
    function = getattr(_load(module, spec), name, None)
    if not callable(function):
        raise ConfigError(f"reward {spec!r}: {module} has no function {name!r}")

    def checked(prompt: Any, response: str) -> float:
        try:
            value = function(prompt, response)
        except Exception as error:  # any error of the user's code is reported with its name
            raise JudgeError(
                f"reward {spec!r} raised {type(error).__name__} ({error}) on the response {response[:60]!r}"
            ) from error
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise JudgeError(f"reward {spec!r} must return a finite number, got {value!r} for {response[:60]!r}")
        return float(value)

    return checked


def _text(prompt: Any) -> Text:
    """A prompt as its record has it, from what a row holds."""
    return prompt if isinstance(prompt, str) else messages(prompt, "prompt")


def _load(name: str, spec: str) -> Any:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)  # of an installed package; a file ends in .py
        path = Path(name).expanduser()
        file_spec = importlib.util.spec_from_file_location(path.stem, path)
        if file_spec is None or file_spec.loader is None or not path.is_file():
            raise ConfigError(f"reward {spec!r}: {name} does not exist")
        module = importlib.util.module_from_spec(file_spec)
        sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
        file_spec.loader.exec_module(module)
        return module
    except ConfigError:
        raise
    except Exception as error:  # as above: importing runs the user's code
        raise ConfigError(f"reward {spec!r}: {name} cannot be imported ({type(error).__name__}: {error})") from error

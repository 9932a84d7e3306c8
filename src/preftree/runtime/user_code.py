"""Functions from the user's Python files and modules, by their place: FILE.py:FUNCTION or MODULE:FUNCTION."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preftree.errors import ConfigError


def is_place(name: str) -> bool:
    """Whether a name has the form of a place."""
    module, _, function = name.rpartition(":")
    return bool(module) and function.isidentifier()


def load_function(name: str, subject: str) -> tuple[Callable[..., Any], str]:
    """The function at a place, and the SHA-256 of its file; empty where there is no file.

    The code of the file or module runs with the user's rights.

    Args:
      name: A place, for which `is_place` is true.
      subject: Subject of error messages, such as `loss 'mine.py:f'`.
    Raises:
      ConfigError: there is no such file, module or function, or importing it fails.
    """
    place, _, attribute = name.rpartition(":")
    function = getattr(_import(place, subject), attribute, None)
    if not callable(function):
        raise ConfigError(f"{subject}: {place} has no function {attribute!r}")
    return function, file_hash(name)


def file_hash(name: str) -> str:
    """SHA-256 of the file that holds a place; empty where there is none."""
    place, _, _ = name.rpartition(":")
    path = Path(place).expanduser()
    if not place.endswith(".py"):
        module = importlib.util.find_spec(place)
        path = Path((module and module.origin) or "")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _import(place: str, subject: str) -> Any:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place).expanduser()
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigError(f"{subject}: {place} does not exist")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    except ConfigError:
        raise
    except Exception as error:  # importing runs the user's code
        raise ConfigError(f"{subject}: {place} cannot be imported ({type(error).__name__}: {error})") from error

"""Functions from the user's Python files and modules, by their place: FILE.py:FUNCTION or MODULE:FUNCTION."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preftree.errors import ConfigError, UserError

LONGEST_MESSAGE = 200
"""Characters that are shown of the message of a user's error."""


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
    module = _import(place, subject)
    with boundary(f"{subject}: {place}", ConfigError):
        function = getattr(module, attribute, None)
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


@contextmanager
def boundary(subject: str, error: type[UserError], where: str = "") -> Iterator[None]:
    """Run the user's code, and report whatever it raises as one sentence: `sys.exit` too, but not Ctrl-C.

    Everything of the user's that the program calls runs within this one boundary.

    Args:
      subject: Beginning of the sentence, such as `reward 'mine.py:f'`.
      error: Type of the error to raise.
      where: End of the sentence, such as the response that was judged.
    Raises:
      error: the code raised something; an error of this program passes as it is.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as raised:
        raise error(f"{subject} raised {_told(raised)}{where}") from raised


def _told(raised: BaseException) -> str:
    """Type and message of an error, on one line and without control characters."""
    try:
        message = str(raised)
    except Exception:  # its text comes from the user's code as well
        message = "its message cannot be read"
    message = "".join(each if each.isprintable() else " " for each in message).strip()
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + "..."
    if isinstance(raised, SystemExit):
        return f"SystemExit ({message}): it must return, and not end the program"
    return f"{type(raised).__name__} ({message})"


def _import(place: str, subject: str) -> Any:
    if not place.endswith(".py"):
        with boundary(f"{subject}: {place} cannot be imported, it", ConfigError):
            return importlib.import_module(place)
    path = Path(place).expanduser()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{subject}: {place} does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
    with boundary(f"{subject}: {place} cannot be imported, it", ConfigError):
        spec.loader.exec_module(module)
    return module

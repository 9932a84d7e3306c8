"""JSON files of Preftree's own: sealed with their digest as they are written, checked by seal and schema when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from preftree.errors import DataError
from preftree.storage.atomic import write_atomic

M = TypeVar("M", bound=BaseModel)

_FORMAT, _SEAL = "format", "sha256"  # two marks, so that a flipped bit in one does not make a file look like an old one


def sealed_json(content: Mapping[str, Any]) -> str:
    """Text of a JSON object with a format number and the SHA-256 of its content."""
    seal = hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
    sealed = {_FORMAT: 2, _SEAL: seal, **content}
    return json.dumps(sealed, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sealed JSON object; the file is whole or as it was.

    Raises:
      OSError: it cannot be written.
    """
    write_atomic(path, sealed_json(content))


def read_json(path: Path, kind: type[M], advice: str) -> M:
    """Read a JSON object of Preftree's own; one of an earlier version has no seal and is checked by its schema alone.

    Args:
      path: The file.
      kind: Schema of its content.
      advice: What to do where it cannot be used.
    Raises:
      DataError: it cannot be read, differs from what was written, or has another content than `kind`.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {advice}") from error
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: the file is damaged, no JSON object ({str(error)[:80]}); {advice}") from error
    if content.keys() & {_FORMAT, _SEAL}:
        rest = {name: value for name, value in content.items() if name not in (_FORMAT, _SEAL)}
        try:
            whole = sealed_json(rest).encode() == text
        except ValueError:  # nan, or half a character
            whole = False
        if not whole:
            raise DataError(f"{path}: the file is damaged, not as Preftree wrote it; {advice}")
        content = rest
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {first_fault(error)}; {advice}") from error


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found, with the field's name."""
    fault = error.errors()[0]
    field = ".".join(str(part) for part in fault["loc"])
    return f"{field or 'the file'}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"

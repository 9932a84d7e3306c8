"""Modules that a module imports, read from the source."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path


def imported_modules(name: str, within: tuple[str, ...]) -> set[str]:
    """Modules that a module imports, directly or through others of them; itself included.

    Args:
      name: The module.
      within: Prefixes of the modules that count.
    """
    found, waiting = {name}, [name]
    while waiting:
        spec = importlib.util.find_spec(waiting.pop())
        assert spec is not None and spec.origin is not None
        for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
            sources = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module is not None
                sources = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            new = {source for source in sources if source.startswith(within) and _is_module(source)} - found
            found |= new
            waiting += new
    return found


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a function of a module
        return False

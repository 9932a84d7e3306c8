"""Digest of the code of modules, which comments, docstrings and layout do not change."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path


@functools.cache
def code_digest(modules: tuple[str, ...]) -> str:
    """SHA-256 of the code of modules, in hex; for keys of what these modules compute.

    Code is what Python parses, without strings that stand alone as statements (docstrings). Another version of Python
    may print the same code differently, and then gives another digest.

    Args:
      modules: Dotted names; their order does not matter.
    Raises:
      ModuleNotFoundError: there is no such module, or it has no source file.
    """
    total = hashlib.sha256()
    for name in sorted(modules):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{name} has no source file to take a digest of", name=name)
        total.update(f"{name}\0{code_of(Path(spec.origin).read_text(encoding='utf-8'))}\0".encode())
    return total.hexdigest()


def code_of(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    return ast.unparse(_WithoutStrings().visit(ast.parse(source)))


class _WithoutStrings(ast.NodeTransformer):
    """Leaves out strings that stand alone as statements; a body of nothing else keeps an empty one."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

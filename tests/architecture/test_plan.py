"""The house as planned: small rooms, one name a thing, nothing unused, and documents that name every room and page."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

import preftree
from preftree.data.formats import FORMATS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "preftree"
TREES = {path.relative_to(SOURCE): ast.parse(path.read_text("utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
ROOMS = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
TEMPLATES = "".join(path.read_text("utf-8") for path in SOURCE.rglob("templates/*"))

MOST_MODULES = 14
ONE_THING_A_FILE = {"cli", "data/formats", "evaluate/checks", "losses/pair"}

Definition: TypeAlias = ast.FunctionDef | ast.ClassDef

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def public(tree: ast.Module) -> Iterator[Definition]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def mentions(tree: ast.AST) -> set[str]:
    """Every name that code uses: variables, attributes, imports, and words of strings that are no docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names |= set(node.name.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            names |= set(re.findall(r"\w+", node.value))
    return names


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_a_folder_holds_few_modules() -> None:
    counts: dict[str, int] = defaultdict(int)
    for path in TREES:
        counts[path.parent.as_posix()] += path.name != "__init__.py"
    crowded = {folder: count for folder, count in counts.items() if count > MOST_MODULES}
    assert crowded.keys() <= ONE_THING_A_FILE, crowded


def test_no_two_public_classes_have_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in TREES.items():
        for node in public(tree):
            if isinstance(node, ast.ClassDef) and path.parent.as_posix() != "trl":  # the names there are TRL's
                places[node.name].append(path.as_posix())
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_no_public_name_is_a_room() -> None:
    assert ROOMS & {name for name in getattr(preftree, "__all__", ()) if not name.startswith("_")} == set()


def test_what_is_public_is_used_or_exported() -> None:
    used = set(re.findall(r"\w+", TEMPLATES)) | set(getattr(preftree, "__all__", ())) | mentions_of_scripts()
    for path, tree in TREES.items():
        used |= {name for node in ast.walk(tree) for name in decorated(node)}
        if path.parent.as_posix() == "data/formats" and path.stem in FORMATS:
            used |= {"detect", "read"}
    for tree in TREES.values():
        for node in tree.body:
            names = mentions(node)
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names -= {node.name}  # a function that calls itself is not used by that
            used |= names
    unused = [f"{path}: {node.name}" for path, tree in TREES.items() for node in public(tree) if node.name not in used]
    assert unused == []


def decorated(node: ast.AST) -> Iterator[str]:
    """The name of a command or a validator, which its decorator registers."""
    if isinstance(node, ast.FunctionDef) and any(isinstance(mark, ast.Call) for mark in node.decorator_list):
        yield node.name


def mentions_of_scripts() -> set[str]:
    return {name for target in PYPROJECT["project"]["scripts"].values() for name in re.findall(r"\w+", target)}


NOT_OF_THE_PACKAGE = {"bench", "dev", "docs", "real"}
"""Extras of tests, benchmarks and the documentation site."""


@pytest.mark.parametrize("extra", sorted(set(PYPROJECT["project"]["optional-dependencies"]) - NOT_OF_THE_PACKAGE))
def test_every_extra_is_imported(extra: str) -> None:
    named = {re.split(r"[\s<>=;\[]", item)[0] for item in PYPROJECT["project"]["optional-dependencies"][extra]}
    wanted = {
        {
            "llama-cpp-python": "llama_cpp",
            "argon2-cffi": "argon2",
            "markdown-it-py": "markdown_it",
            "mlflow-skinny": "mlflow",
        }.get(name, name)
        for name in named
    }
    modules = {module.split(".")[0] for tree in TREES.values() for module in imported(tree)}
    assert wanted <= modules.union(*map(mentions, TREES.values()))


def test_the_design_names_every_room_on_its_floor() -> None:
    text = (ROOT / "docs" / "design.md").read_text("utf-8").partition("## Floors")[2].partition("\n## ")[0]
    table = re.findall(r"`(\w+)`", "\n".join(line for line in text.splitlines() if line.startswith("| ")))
    (contract,) = (rule for rule in PYPROJECT["tool"]["importlinter"]["contracts"] if rule["type"] == "layers")
    floors = [layer.strip("()").removeprefix("preftree.") for layer in reversed(contract["layers"])]
    built = [room for room in floors if (SOURCE / room).is_dir() or (SOURCE / f"{room}.py").is_file()]
    assert table == built
    assert set(built) >= ROOMS


def test_the_navigation_has_every_page() -> None:
    pages = set(re.findall(r"(\w+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    assert pages == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_every_target_is_phony() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^([a-z][\w-]*):", text, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE)
    assert sorted(phony.split()) == sorted(targets)

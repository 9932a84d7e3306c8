"""The house holds together: every module imports, what is public is documented, nothing unsafe stands in it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import preftree
from preftree.losses import LOSSES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "preftree"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(preftree.__path__, "preftree.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    is_empty_package = hasattr(module, "__path__") and not Path(str(module.__file__)).read_text().strip()
    assert module.__doc__ or is_empty_package, f"{name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_public_names_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_unsafe(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    banned = r"\bpickle\b|torch\.load\(|yaml\.load\(|trust_remote_code=True|shell=True|(?<![.\w])(?:eval|exec)\("
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    code = re.sub(r'""".*?"""', "", code, flags=re.DOTALL)
    assert not re.search(banned, code)


@pytest.mark.parametrize("room", ["crowd", "losses", "tree"])
def test_math_knows_no_ranks_and_no_files(room: str) -> None:
    for path in (SOURCE / room).rglob("*.py"):
        assert not re.search(r"torch\.distributed|\bopen\(|pathlib", path.read_text(encoding="utf-8")), path


def test_files_can_be_read_at_once() -> None:
    lengths = {str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_words_load_without_torch() -> None:
    code = "import sys, preftree.errors, preftree.records, preftree.config.load; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, preftree.cli.main; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_loss_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    assert [name for name in LOSSES if f"`{name}`" not in page] == []


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def imports_of(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each `from preftree... import name` of a Python file, or of the code in a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"^ *(from preftree[\w.]* import [\w, ]+)$", text, re.MULTILINE)).replace(
            "    ", ""
        )
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "preftree":
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("folder", ["benchmarks", "tests", "docs", "configs"])
def test_what_is_imported_from_the_package_is_there(folder: str) -> None:
    """Benchmarks and slow tests import inside functions, which nothing else runs here."""
    lacking = []
    for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md")]:
        for module, name in imports_of(path):
            if not hasattr(importlib.import_module(module), name) and f"{module}.{name}" not in MODULES:
                lacking.append(f"{path.relative_to(ROOT)}: {module}.{name}")
    assert lacking == []

"""A new loss touches one source file: its family's, which ends with the rows of all its losses."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import preftree.losses
from preftree.losses.registry import LOSSES, REWARD_LOSSES
from preftree.losses.types import LossSpec

ROOM = Path(preftree.losses.__file__).parent
FAMILIES = [
    path.relative_to(ROOM).with_suffix("").as_posix().replace("/", ".")
    for path in [*sorted((ROOM / "pair").glob("[!_]*.py")), *(ROOM / f"{n}.py" for n in ("lists", "unpaired", "sft"))]
]


def rows_of(family: str) -> dict[str, LossSpec]:
    return importlib.import_module(f"preftree.losses.{family}").SPECS


@pytest.mark.parametrize("family", [*FAMILIES, "reward_model"])
def test_every_loss_of_a_file_is_in_its_rows_under_its_name(family: str) -> None:
    module = importlib.import_module(f"preftree.losses.{family}")
    functions = {
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and "loss = " in (value.__doc__ or "")
    }
    assert functions == rows_of(family).keys()
    assert all(getattr(module, name) is spec.function for name, spec in rows_of(family).items())
    last = ast.parse(Path(str(module.__file__)).read_text("utf-8")).body
    assert family == "reward_model" or ast.unparse(last[-1]).startswith("SPECS = ")


def test_the_table_is_the_families_one_after_another() -> None:
    assert sorted(LOSSES) == sorted(name for family in FAMILIES for name in rows_of(family))
    assert rows_of("reward_model") == REWARD_LOSSES


def test_the_registry_names_no_single_loss() -> None:
    text = (ROOM / "registry.py").read_text("utf-8")
    words = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert (words | names) & (LOSSES.keys() | REWARD_LOSSES.keys()) == set()

"""The key of a token store names the code that can move a token."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from preftree.data.formats import FORMATS
from preftree.data.store.key import TOKEN_CODE
from preftree.storage.code_digest import code_digest
from support.imports import imported_modules

HARMLESS = {
    "preftree.data.rows.faults",  # words of messages, and counts
    "preftree.data.store.key",  # the key itself
    "preftree.tree.to_device",  # copies of what is tokenised
}
"""Imported modules that cannot move a token."""


def test_all_that_tokenisation_imports_is_in_the_key() -> None:
    imported = imported_modules("preftree.data.tokens.tokenize", ("preftree.data.", "preftree.tree.", "preftree.rec"))
    assert {"preftree.data.formats.hh", "preftree.tree.layout", "preftree.records"} <= imported
    packages = {name for name in imported if _file(name).name == "__init__.py"} - {"preftree.data.formats"}
    assert imported - packages - HARMLESS == set(TOKEN_CODE), "name it in data/store/key.py: TOKEN_CODE"


def test_a_new_format_is_in_the_key_by_itself() -> None:
    assert {form.read.__module__ for form in FORMATS.values()} <= set(TOKEN_CODE)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("MAX_RESPONSES = 64", "MAX_RESPONSES = 64  # pairs of two", True),
        ('"""A finite number', '"""A number that is finite', True),
        ("MAX_RESPONSES = 64", "MAX_RESPONSES = 65", False),
    ],
)
def test_words_void_no_store_and_numbers_do(
    old: str, new: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _file("preftree.data.rows.fields").read_text(encoding="utf-8")
    assert old in source
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "fields_of_a_test.py"
    digests = []
    for text in (source, source.replace(old, new)):
        module.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        code_digest.cache_clear()
        digests.append(code_digest(("fields_of_a_test",)))
    assert (digests[0] == digests[1]) == same


def _file(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin)

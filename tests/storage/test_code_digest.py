"""The digest of code: the same for other words, another for other code."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftree.storage.code_digest import code_digest, code_of

CODE = '''"""What this does."""
LIMIT = 3
"""Of what."""


class Odd(Exception):
    """Only a docstring."""


def scale(x: float) -> float:
    """Twice x."""
    return 2 * x  # times two
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("  # times two", "  # doubled", True),
        ('"""Twice x."""', '"""Two times x."""\n', True),
        ('"""What this does."""', "", True),
        ('"""Of what."""', '"""Of whom."""', True),
        ('"""Only a docstring."""', '"""Nothing in it."""', True),
        ("2 * x", "(2 *\n            x)", True),
        ("2 * x", "3 * x", False),
        ("LIMIT = 3", "LIMIT = 4", False),
        ("LIMIT = 3", "LIMIT = '3'", False),
        ("return 2 * x", "return x * 2", False),
    ],
)
def test_words_do_not_count_and_code_does(old: str, new: str, same: bool) -> None:
    changed = CODE.replace(old, new)
    assert changed != CODE
    assert (code_of(changed) == code_of(CODE)) == same


def test_the_digest_is_of_all_the_modules_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    first, second = tmp_path / "module_of_a_test_a.py", tmp_path / "module_of_a_test_b.py"
    first.write_text(CODE)
    second.write_text(CODE)
    names = ("module_of_a_test_a", "module_of_a_test_b")
    digest = code_digest(names)
    assert code_digest(names[::-1]) == digest != code_digest(names[:1])
    code_digest.cache_clear()
    second.write_text(CODE.replace("2 * x", "2.0 * x"))
    assert code_digest(names) != digest
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        code_digest(("no_such_module_anywhere",))

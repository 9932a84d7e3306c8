"""The one boundary of users' functions: whatever they raise is a sentence, and Ctrl-C is not stopped."""

from __future__ import annotations

import asyncio

import pytest

from preftree.errors import ConfigError, JudgeError
from preftree.runtime.user_code import boundary


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ValueError("bad"), "it raised ValueError (bad) here"),
        (SystemExit(0), "it raised SystemExit (0): it must return, and not end the program here"),
        (GeneratorExit(), "it raised GeneratorExit () here"),
        (asyncio.CancelledError(), "it raised CancelledError () here"),
        (BaseException("b"), "it raised BaseException (b) here"),
        (MemoryError(), "it raised MemoryError () here"),
        (ValueError("two\nlines \x1b[31mred"), "it raised ValueError (two lines  [31mred) here"),
        (Unspeakable(), "it raised Unspeakable (its message cannot be read) here"),
    ],
)
def test_whatever_is_raised_is_one_sentence(raised: BaseException, said: str) -> None:
    with pytest.raises(JudgeError) as caught, boundary("it", JudgeError, " here"):
        raise raised
    assert str(caught.value) == said


def test_a_long_message_is_cut() -> None:
    with pytest.raises(JudgeError) as caught, boundary("it", JudgeError):
        raise ValueError("x" * 10_000)
    assert len(str(caught.value)) < 240


def test_ctrl_c_and_our_own_errors_pass() -> None:
    with pytest.raises(KeyboardInterrupt), boundary("it", JudgeError):
        raise KeyboardInterrupt
    with pytest.raises(ConfigError, match=r"^ours$"), boundary("it", JudgeError):
        raise ConfigError("ours")

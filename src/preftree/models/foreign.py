"""Boundary to the libraries that load models: whatever they raise becomes one sentence.

A model folder comes from anywhere. transformers, tokenizers, safetensors and peft raise errors of any class for what is
in it, some of several lines, and some with advice that no command here can follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as hf_logging

from preftree.errors import ModelError, UserError

_OWN_CODE = "it needs code that comes with it, which is not run; give a model that transformers knows"
_LONGEST = 400


@contextmanager
def foreign(subject: str) -> Iterator[None]:
    """Turn any error into a ModelError that begins with `subject`, such as "model 'x' cannot be loaded".

    Ctrl-C and errors that users can correct pass. Panics of libraries in Rust, and SystemExit, do not derive from
    Exception.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, GeneratorExit):
        raise
    except MemoryError as error:
        raise ModelError(f"{subject}: it does not fit into memory") from error
    except RecursionError as error:
        raise ModelError(f"{subject}: a part of it is nested too deeply") from error
    except BaseException as error:
        raise ModelError(f"{subject}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """An error's message as one line, with all that it says; its class where it says nothing of its own."""
    words = " ".join(str(error).split())
    if "trust_remote_code" in words or "custom code" in words:
        return _OWN_CODE
    if isinstance(error, KeyError | IndexError | AttributeError | TypeError | AssertionError) or not words:
        words = f"{type(error).__name__} {words}".strip()
    return words if len(words) <= _LONGEST else words[:_LONGEST] + " ..."


@contextmanager
def without_load_warnings() -> Iterator[None]:
    """Hide transformers' warning of weights that are missing, for a caller that checks them."""
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)

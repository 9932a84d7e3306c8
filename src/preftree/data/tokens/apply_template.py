"""One call of the tokenizer's chat template, with everything that a conversation gives it.

A template is a program that comes with a model: it may raise anything, and it may not end. A rendering has a limit of
processor time, which interrupts loops; powers and long repetitions are refused before, since nothing interrupts them.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jinja2
from jinja2 import nodes
from transformers import PreTrainedTokenizerBase

from preftree.data.rows.faults import RowFault
from preftree.errors import ModelError, visible
from preftree.records import Message, template_options_of, tools_of

_RESERVED = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "messages"} - {
    "documents",
    "kwargs",
}
"""Names that mean something to the call itself, and that no template variable can have."""

SECONDS = 2.0
"""Most processor time of one rendering; templates take milliseconds."""

_MOST_REPEATS = 1_000_000
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


class EndlessTemplate(ModelError):
    """A chat template does not end."""


class _TimeUp(BaseException):
    """Ends a rendering; not an Exception, so that no template or library swallows it."""


@contextmanager
def rendering(tokenizer: PreTrainedTokenizerBase, field: str) -> Iterator[None]:
    """A call of the template, limited to SECONDS of processor time where it runs in the main thread of a process.

    Raises:
      RowFault: the template refuses the turns, in whatever way.
      EndlessTemplate: it does not end.
      ModelError: it is not Jinja.
    """
    template = tokenizer.chat_template
    for source in template.values() if isinstance(template, dict) else [template]:
        if (why := _endless(str(source or ""))) is not None:
            raise EndlessTemplate(f"the chat template of {tokenizer.name_or_path} {why}; give another one")
    try:
        with _limit():
            yield
    except _TimeUp:
        raise EndlessTemplate(
            f"the chat template of {tokenizer.name_or_path} does not end: it was stopped after {SECONDS:g} s on one "
            "conversation; give another one"
        ) from None
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"the chat template of {tokenizer.name_or_path} is not Jinja: {error}") from error
    except (RowFault, ModelError):
        raise
    except RecursionError:
        raise RowFault("bad_messages", field, f"the chat template refuses '{field}': it calls itself forever") from None
    except Exception as error:  # it may do anything with what it is given
        words = visible(" ".join(str(error).split())) or type(error).__name__
        raise RowFault("bad_messages", field, f"the chat template refuses '{field}': {words[:400]}") from None


@contextmanager
def _limit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@functools.lru_cache(maxsize=64)
def _endless(source: str) -> str | None:
    """Why a template may compute something that cannot be interrupted; None where it does not."""
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", source))
    except (jinja2.TemplateError, RecursionError):  # said where it is rendered
        return None
    if tree.find(nodes.Pow) is not None:
        return "computes powers (**), which may never end"
    for product in tree.find_all(nodes.Mul):
        factors = [constant.value for constant in product.find_all(nodes.Const)]
        if math.prod(max(1, abs(f)) for f in factors if isinstance(f, int)) > _MOST_REPEATS:
            return "repeats something more than a million times"
    return None


def apply_template(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], asked: object, field: str, *, ask: bool
) -> str:
    """Turns as the template renders them.

    Args:
      tokenizer: Has the template.
      turns: The messages; every key of a message reaches the template.
      asked: The prompt, which knows the tools and the further variables of the template.
      field: Name of the turns, for errors.
      ask: Whether the header of an assistant's turn follows.
    Raises:
      RowFault: the template refuses the turns, or a variable has the name of something else.
      ModelError: the template is not Jinja.
    """
    arguments = template_arguments(turns, asked)
    with rendering(tokenizer, field):
        text = tokenizer.apply_chat_template(**arguments, tokenize=False, add_generation_prompt=ask)
    assert isinstance(text, str)
    return text


def template_arguments(turns: Sequence[Message], asked: object) -> dict[str, Any]:
    """The arguments of `apply_chat_template` for turns that answer or begin a prompt.

    Raises:
      RowFault: a variable of the template has the name of an argument.
    """
    options = template_options_of(asked)
    for name in options:
        if name in _RESERVED:
            message = f"'chat_template_kwargs' sets '{name}', which is no variable of the template; take it out"
            raise RowFault("bad_value", "chat_template_kwargs", message)
    conversation = [{"role": turn.role, "content": turn.content, **turn.rest} for turn in turns]
    return {"conversation": conversation, "tools": list(tools_of(asked)) or None, **options}

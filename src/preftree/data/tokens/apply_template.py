"""One call of the tokenizer's chat template, with everything that a conversation gives it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from preftree.data.rows.faults import RowFault
from preftree.errors import ModelError
from preftree.records import Message, template_options_of, tools_of

_RESERVED = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "messages"} - {
    "documents",
    "kwargs",
}
"""Names that mean something to the call itself, and that no template variable can have."""

_FAILURES = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What a template can raise: it may do anything with what it is given."""


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
    try:
        text = tokenizer.apply_chat_template(
            **template_arguments(turns, asked), tokenize=False, add_generation_prompt=ask
        )
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"the chat template of {tokenizer.name_or_path} is not Jinja: {error}") from error
    except _FAILURES as error:
        reason = " ".join(str(error).split())
        raise RowFault("bad_messages", field, f"the chat template refuses '{field}': {reason}") from None
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

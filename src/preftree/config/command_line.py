"""Options on a command line: `key=value`, `--key value`, `--key=value` and `--flag`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import get_args

from pydantic import BaseModel

from preftree.config.help import fields_at
from preftree.config.other_names import unknown_option
from preftree.config.recipes import RECIPES
from preftree.config.yaml import read_yaml
from preftree.errors import ConfigError


def split_words(kind: type[BaseModel], words: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Take a command line apart.

    Args:
      kind: The recipe's options, which say whether `--key` takes the word after it.
      words: The command line after its verb.
    Returns:
      Paths of configuration files; dotted names of options, each with the text of its value.
    Raises:
      ConfigError: a word is neither; an option that begins with -- is unknown or has no value.
    """
    files: list[str] = []
    options: list[tuple[str, str]] = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word.startswith("--"):
            options.append(_take_flag(kind, word, rest))
        elif _is_file(word):
            files.append(word)
        else:
            name, _, text = word.partition("=")
            options.append((_checked(name, word), text))
    return files, options


def read_value(name: str, text: str) -> object:
    """The value of an option, by the rules of a configuration file.

    Raises:
      ConfigError: the text is not valid YAML, or not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"option {name!r}: {text!a} is not UTF-8; rename the file or the folder") from None
    return read_yaml(text, f"option {name!r}")[0]


def refuse(kind: type[BaseModel], name: str) -> str:
    """A sentence on an option that the recipe does not have: the recipe that has it, or its name here."""
    others = (row for row in RECIPES.values() if row.config is not kind)
    if owner := next((row.name for row in others if name in row.config.model_fields), None):
        return f"option {name!r} belongs to `preftree {owner}`"
    outer = name.split(".")[:-1]
    fields = fields_at(kind, *outer)
    return unknown_option(name, [".".join((*outer, key)) for key in fields] or list(fields_at(kind)))


def _is_file(word: str) -> bool:
    """Whether a word is a path and not an option; a path may hold a `=` too: runs/beta=.1/config.yaml."""
    return "=" not in word or ("/" in word.partition("=")[0] and word.endswith((".yaml", ".yml")))


def _checked(name: str, word: str) -> str:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{word!r}: must be key=value with a dotted key such as lr=1e-6 or loss.label_smoothing=.1")
    return name


def _take_flag(kind: type[BaseModel], word: str, rest: deque[str]) -> tuple[str, str]:
    """An option that begins with --; its value is in the word, is the first of `rest`, or is a plain true."""
    key, equals, text = word.removeprefix("--").partition("=")
    name = _checked(key.replace("-", "_"), word)
    *outer, last = name.split(".")
    field = fields_at(kind, *outer).get(last)
    if field is None and outer[:1] != ["loss"]:
        raise ConfigError(refuse(kind, name))
    if equals:
        return name, text
    types = (field.annotation, *get_args(field.annotation)) if field else ()
    follows = rest[0] if rest and not rest[0].startswith("--") else None
    if bool in types and not _is_value(follows, number=float in types):
        return name, "true"
    if follows is None:
        raise ConfigError(f"option {word} has no value; give it as {word} VALUE or {name}=VALUE")
    return name, rest.popleft()


def _is_value(word: str | None, *, number: bool) -> bool:
    """Whether a word is the value of an option that may be true or false, and not the next option or a file."""
    if word is None or not _is_file(word):
        return False
    value = read_value("", word)
    return value is None or isinstance(value, bool) or (number and isinstance(value, int | float))

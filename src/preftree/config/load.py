"""From a command line and a YAML file to one checked configuration, and back to YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from preftree.config.base import SHORTHANDS, RunConfig
from preftree.config.command_line import read_value, refuse, split_words
from preftree.config.loss import HIDDEN, is_mixture, set_in_mixture
from preftree.config.online import PpoConfig, RlooConfig
from preftree.config.yaml import PlainMap, flatten, read_yaml_file
from preftree.errors import ConfigError

AnyConfig: TypeAlias = RunConfig | PpoConfig | RlooConfig
"""Options of any run."""

C = TypeVar("C", bound=AnyConfig)

_WANTED = {
    "greater_than": "> {gt:g}",
    "greater_than_equal": ">= {ge:g}",
    "less_than": "< {lt:g}",
    "less_than_equal": "<= {le:g}",
    "literal_error": "{expected}",
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "a finite number"),
    **dict.fromkeys(("string_type", "string_too_short"), "a word"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
}
"""What an option must be, by pydantic's type of error, with places for the error's context."""


def load_config(kind: type[C], words: Sequence[str]) -> C:
    """Build a configuration from the words of a command line.

    Args:
      kind: The recipe's model.
      words: Options as `key=value`, `--key value` or `--key=value`, and at most one path of a YAML file of defaults;
        dotted keys reach inside. A value on the line replaces that of the file, in whichever spelling each is.
    Raises:
      ConfigError: an option is unknown, missing, set twice or out of range; the sentence names it and its place.
    """
    files, texts = split_words(kind, words)
    if len(files) > 1:
        raise ConfigError(f"one configuration file at most, got {files[0]!r} and {files[1]!r}; options are key=value")
    options: PlainMap = {}
    where: dict[str, str] = {}
    if files:
        options, lines = read_yaml_file(Path(files[0]))
        where = {name: f"{files[0]}:{line}" for name, line in lines.items()}
    line = [(name, read_value(name, text)) for name, text in texts]
    _check_once(line)
    _drop_other_betas(options, [name for name, _ in line])
    line = [("loss" if name == "loss.name" else name, value) for name, value in line]
    for name, value in sorted(line, key=lambda option: option[0].count(".")):
        where[name] = name
        _set(options, name, value)
    return check_config(kind, options, where)


def _check_once(line: Sequence[tuple[str, object]]) -> None:
    """Refuse an option that the command line gives twice, in one spelling or in two."""
    names: dict[str, str] = {}
    for name, value in line:
        inner = [name]
        if isinstance(value, str) and name in SHORTHANDS:
            inner = [f"{name}.{SHORTHANDS[name]}"]
        elif isinstance(value, dict) and not (name == "loss" and is_mixture(value)):
            inner = list(flatten({name: value}))
        for option in inner:
            if option in names:
                spellings = "" if names[option] == name else f", as {names[option]!r} and as {name!r}"
                raise ConfigError(f"option {option!r} is given twice{spellings}; keep one")
            names[option] = name


def _drop_other_betas(options: PlainMap, line: Sequence[str]) -> None:
    """Take from a file's options the other spelling of a beta that the command line gives."""
    if any(name.startswith("loss.") and name.endswith(".beta") for name in line) and "beta" not in line:
        options.pop("beta", None)
    loss = options.get("loss")
    parts = loss if isinstance(loss, list) else [loss]
    inner = [part for part in parts if isinstance(part, dict) and {"name", "beta"} <= part.keys()]
    if "beta" in line and len(inner) == 1:
        del inner[0]["beta"]


def check_config(kind: type[C], options: Mapping[str, object], where: Mapping[str, str] | None = None) -> C:
    """Validate plain options; `where` maps dotted names to `file:line` for the error's sentence.

    Raises:
      ConfigError: as `load_config`; or the options name the recipe that they belong to, and it is another one.
    """
    options = dict(options)
    recipe = options.pop("recipe", kind.recipe)
    if recipe != kind.recipe:
        position = (where or {}).get("recipe", "recipe")
        raise ConfigError(f"these are options of `preftree {recipe}`, not of `preftree {kind.recipe}` ({position})")
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        raise ConfigError(_sentence(kind, error, where or {})) from None


def dump_config(config: AnyConfig) -> str:
    """The configuration as YAML that `load_config` reads back as the same object; it begins with its recipe's name."""
    options = {"recipe": config.recipe, **config.model_dump()}
    return yaml.safe_dump(options, sort_keys=False, allow_unicode=True)


def changed_options(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Dotted options that differ, each with its old and its new value; a missing one counts as null."""
    before, after = flatten(old), flatten(new)
    names = sorted(before.keys() | after.keys())
    return {n: (before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)}


def _set(options: PlainMap, name: str, value: object) -> None:
    """Set a dotted option; an inner option turns a shorthand into the mapping that it abbreviates."""
    *outer, last = name.split(".")
    if outer and outer[0] == "loss" and is_mixture(options.get("loss")):
        options["loss"] = set_in_mixture(options["loss"], [*outer[1:], last], value, name)
        return
    mapping: dict[str, Any] = options
    for depth, key in enumerate(outer):
        inner = mapping.get(key)
        if depth == 0 and isinstance(inner, str) and key in SHORTHANDS:
            inner = {SHORTHANDS[key]: inner}
        if inner is None:
            inner = {"name": "dpo"} if depth == 0 and key == "loss" else {}
        if not isinstance(inner, dict):
            raise ConfigError(f"option {name!r}: {key!r} has no inner options, it is {inner!r}")
        mapping[key] = dict(inner)
        mapping = mapping[key]
    before = options.get(name)
    if isinstance(value, str) and isinstance(before, dict) and (name == "data" or before.get("name", "") == value):
        value = before | {SHORTHANDS[name]: value}  # another file, read in the same way; or the loss that it is already
    mapping[last] = value


def _sentence(kind: type[BaseModel], error: ValidationError, where: Mapping[str, str]) -> str:
    """One sentence on the first error: option, allowed values, value, position. Missing options come last."""
    faults = sorted(error.errors(), key=lambda fault: fault["type"] == "missing")
    fault = faults[0]
    path = [str(part) for part in fault["loc"] if not str(part).startswith(HIDDEN)]
    name = ".".join(path)
    position = where.get(name, where.get(path[0] if path else "", name))
    suffix = "" if position == name or not name else f" ({position})"
    got = fault.get("input")
    shown = repr(got) if len(repr(got)) <= 60 else f"{repr(got)[:57]}..."
    context = fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden":
            return refuse(kind, name) + suffix
        case "missing":
            return f"{name} is not set; give it as {name}=VALUE or in the configuration file"
        case "value_error":
            sentence = str(context["error"])
            subject = "" if not name else f"{name} " if sentence.startswith("must") else f"{name}: "
            return f"{subject}{sentence}{suffix}"
        case type if type in _WANTED:
            return f"{name} must be {_WANTED[type].format(**context)}, got {shown}{suffix}"
        case _:
            return f"{name}: {fault['msg'][:1].lower()}{fault['msg'][1:]}, got {shown}{suffix}"

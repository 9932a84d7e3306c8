"""From a YAML file and `key=value` words to one checked configuration, and back to YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from preftree.config.loss import HIDDEN, is_mixture, set_in_mixture
from preftree.config.other_names import unknown_option
from preftree.config.recipes import RECIPES, AnyConfig
from preftree.config.yaml import PlainMap, flatten, read_yaml, read_yaml_file
from preftree.errors import ConfigError

C = TypeVar("C", bound=AnyConfig)

# Options that may be written as one word; the word is the value of this inner option.
SHORTHANDS = {"data": "path", "loss": "name", "reference": "from"}


def load_config(kind: type[C], words: Sequence[str]) -> C:
    """Build a configuration from the words of a command line.

    Args:
      kind: The recipe's model.
      words: `key=value` options, and at most one path of a YAML file that gives defaults; dotted keys reach inside.
    Raises:
      ConfigError: an option is unknown, missing, set twice or out of range; the sentence names it and where it stood.
    """
    files = [word for word in words if not _is_override(word)]
    if len(files) > 1:
        raise ConfigError(f"one configuration file at most, got {files[0]!r} and {files[1]!r}; options are key=value")
    options: PlainMap = {}
    where: dict[str, str] = {}
    if files:
        options, lines = read_yaml_file(Path(files[0]))
        where = {name: f"{files[0]}:{line}" for name, line in lines.items()}
    overrides = [_parse_override(word) for word in words if _is_override(word)]
    for name, value in sorted(overrides, key=lambda item: item[0].count(".")):
        if where.get(name) == name:
            raise ConfigError(f"option {name!r} is given twice; keep one")
        where[name] = name
        _set(options, name, value)
    return check_config(kind, options, where)


def check_config(kind: type[C], options: Mapping[str, object], where: Mapping[str, str] | None = None) -> C:
    """Validate plain options; `where` maps dotted names to `file:line` for the error's sentence.

    Raises:
      ConfigError: as `load_config`; or the options name the recipe that they belong to, and it is another one.
    """
    options = dict(options)
    recipe = options.pop("recipe", kind.recipe)
    if recipe != kind.recipe:
        place = (where or {}).get("recipe", "recipe")
        raise ConfigError(f"these are options of `preftree {recipe}`, not of `preftree {kind.recipe}` ({place})")
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


def _is_override(word: str) -> bool:
    """A path may hold a `=` as well: runs/beta=.1/config.yaml."""
    return "=" in word and not ("/" in word.partition("=")[0] and word.endswith((".yaml", ".yml")))


def _parse_override(word: str) -> tuple[str, object]:
    name, _, text = word.partition("=")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{word!r}: must be key=value with a dotted key such as lr=1e-6 or loss.label_smoothing=.1")
    value, _ = read_yaml(text, f"option {name!r}")
    return name, value


def _set(options: PlainMap, name: str, value: object) -> None:
    """Set a dotted option; an inner option turns a shorthand word into the mapping it stands for."""
    *outer, last = name.split(".")
    if outer and outer[0] == "loss" and is_mixture(options.get("loss")):
        options["loss"] = set_in_mixture(options["loss"], [*outer[1:], last], value, name)
        return
    place: dict[str, Any] = options
    for depth, key in enumerate(outer):
        inner = place.get(key)
        if depth == 0 and isinstance(inner, str) and key in SHORTHANDS:
            inner = {SHORTHANDS[key]: inner}
        if inner is None:
            inner = {"name": "dpo"} if depth == 0 and key == "loss" else {}
        if not isinstance(inner, dict):
            raise ConfigError(f"option {name!r}: {key!r} has no inner options, it is {inner!r}")
        place[key] = dict(inner)
        place = place[key]
    former = options.get("data")
    if name == "data" and isinstance(value, str) and isinstance(former, dict):
        value = former | {"path": value}  # another file, taken the same way; a loss's options leave with its name
    place[last] = value


def _sentence(kind: type[BaseModel], error: ValidationError, where: Mapping[str, str]) -> str:
    """The first fault as one sentence: what, wanted, got, where. Missing options come last: others may explain them."""
    faults = sorted(error.errors(), key=lambda fault: fault["type"] == "missing")
    fault = faults[0]
    path = [str(part) for part in fault["loc"] if not str(part).startswith(HIDDEN)]
    name = ".".join(path)
    stood = where.get(name, where.get(path[0] if path else "", name))
    suffix = "" if stood == name or not name else f" ({stood})"
    got = fault.get("input")
    shown = repr(got) if len(repr(got)) <= 60 else f"{repr(got)[:57]}..."
    context = fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden":
            taker = _other_recipe(kind, name)
            said = (
                f"option {name!r} belongs to `preftree {taker}`"
                if taker
                else unknown_option(name, _known(kind, path[:-1]))
            )
            return said + suffix
        case "missing":
            return f"{name} is not set; give it as {name}=VALUE or in the configuration file"
        case "greater_than":
            wanted = f"> {context['gt']:g}"
        case "greater_than_equal":
            wanted = f">= {context['ge']:g}"
        case "less_than":
            wanted = f"< {context['lt']:g}"
        case "less_than_equal":
            wanted = f"<= {context['le']:g}"
        case "literal_error":
            wanted = f"{context['expected']}"
        case "int_type" | "int_from_float" | "int_parsing":
            wanted = "a whole number"
        case "float_type" | "float_parsing" | "finite_number":
            wanted = "a finite number"
        case "string_type" | "string_too_short":
            wanted = "a word"
        case "bool_type" | "bool_parsing":
            wanted = "true or false"
        case "value_error":
            said = str(context["error"])
            return (
                f"{said}" if not name else f"{name}: {said}" if not said.startswith("must") else f"{name} {said}"
            ) + suffix
        case _:
            wanted = fault["msg"][:1].lower() + fault["msg"][1:]
            return f"{name}: {wanted}, got {shown}{suffix}"
    return f"{name} must be {wanted}, got {shown}{suffix}"


def _known(kind: type[BaseModel], outer: Sequence[str]) -> list[str]:
    fields = kind.model_fields
    for key in outer:
        inner = fields[key].annotation if key in fields else None
        kinds = [one for one in (inner, *get_args(inner)) if isinstance(one, type) and issubclass(one, BaseModel)]
        if not kinds:
            return list(fields)
        fields = kinds[0].model_fields
    return [".".join((*outer, name)) for name in fields]


def _other_recipe(kind: type[BaseModel], name: str) -> str | None:
    """The verb that takes the option, where another one does."""
    others = (row for row in RECIPES.values() if row.config is not kind)
    return next((row.name for row in others if name in row.config.model_fields), None)

"""Descriptions of the options, read from the models: groups for people, a commented YAML file, a JSON schema."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from textwrap import wrap
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from preftree.config.base import SHORTHANDS, RunConfig
from preftree.config.recipes import Recipe

WIDTH = 100
MOST = 2**53
"""Bound from which on it says nothing to people."""


@dataclass(frozen=True, slots=True)
class OptionHelp:
    """An option as people read it.

    Attributes:
      name: Dotted name, as on a command line.
      type: Values that it takes: `number > 0 | null`.
      default: Default value in YAML; None where the option is required.
      meaning: Description.
      choices: Words among its values.
      takes_path: Whether a path is among its values.
      inner: Options inside it.
    """

    name: str
    type: str
    default: str | None
    meaning: str
    choices: tuple[str, ...]
    takes_path: bool
    inner: tuple[OptionHelp, ...] = ()

    def flat(self) -> Iterator[OptionHelp]:
        """The option and all options inside it."""
        yield self
        for option in self.inner:
            yield from option.flat()


@dataclass(frozen=True, slots=True)
class OptionGroup:
    """The options of one concern, under a title."""

    title: str
    options: tuple[OptionHelp, ...]

    def flat(self) -> Iterator[OptionHelp]:
        """The options and all options inside them."""
        for option in self.options:
            yield from option.flat()


@cache
def groups_of(recipe: Recipe) -> tuple[OptionGroup, ...]:
    """All options of a recipe by concern: model and data, the recipe's own, those that it shares with others."""
    schema = recipe.config.model_json_schema()
    fields: dict[type[BaseModel], list[OptionHelp]] = {}
    for name in recipe.config.model_fields:
        parents = reversed(recipe.config.__mro__)
        concern = next(kind for kind in parents if name in inspect.get_annotations(kind))
        fields.setdefault(concern, []).append(_option(recipe.config, name, schema["properties"], schema["$defs"]))
    first = next(concern for concern in fields if "model" in concern.model_fields)
    specific = [concern for concern in fields if concern is not first and concern.__module__ != RunConfig.__module__]
    order = dict.fromkeys([first, *specific, *fields])
    return tuple(OptionGroup(_title(concern), tuple(fields[concern])) for concern in order)


def descriptions_of(kind: type[BaseModel]) -> dict[str, str]:
    """The descriptions of a model's options, from the `Attributes:` sections of its class and of those it joins."""
    texts: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        _, _, section = inspect.cleandoc(parent.__dict__.get("__doc__") or "").partition("Attributes:\n")
        for entry in re.split(r"\n  (?=\w+: )", f"\n{section}")[1:]:
            name, _, text = entry.partition(": ")
            texts[name] = " ".join(text.split())
    return texts


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The models among the types that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def fields_at(kind: type[BaseModel], *outer: str) -> dict[str, FieldInfo]:
    """The options that a dotted name may contain, by their names in a file; empty where there are none."""
    fields = {str(field.validation_alias or name): field for name, field in kind.model_fields.items()}
    if not outer:
        return fields
    inner = models_in(fields[outer[0]].annotation) if outer[0] in fields else []
    return fields_at(inner[0], *outer[1:]) if inner else {}


def json_schema(recipe: Recipe) -> dict[str, Any]:
    """JSON schema of a recipe's configuration file, with the description of every option."""
    schema = recipe.config.model_json_schema()
    models = {kind.__name__: kind for kind in _all_models(recipe.config)}
    for name, part in [(recipe.config.__name__, schema), *schema.get("$defs", {}).items()]:
        part["description"] = inspect.cleandoc(models[name].__doc__ or "").partition("\n")[0]
        for key, text in _by_key(models[name]).items():
            part["properties"].get(key, {})["description"] = text
    recipe_name = {"const": recipe.name, "description": "Name of the recipe."}
    schema["properties"] = {"recipe": recipe_name} | schema["properties"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def commented_yaml(recipe: Recipe) -> str:
    """A configuration file with every option at its default, and its description above it."""
    lines = [f"# Options of `preftree {recipe.name}`. Fill in what is marked as required.", f"recipe: {recipe.name}"]
    for group in groups_of(recipe):
        lines += ["", f"# ---- {group.title} ----"]
        for option in group.options:
            lines += _yaml_lines(option, 0)
    return "\n".join(lines) + "\n"


def _yaml_lines(option: OptionHelp, depth: int) -> list[str]:
    indent, key = "  " * depth, option.name.rpartition(".")[2]
    if key.isupper():
        return []
    nested = [line for inner in option.inner for line in _yaml_lines(inner, depth + 1)]
    required = option.default is None
    text = f"{option.meaning} ({option.type}{'; required' if required else ''})"
    comment = wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False)
    if nested and required:
        return ["", *comment, f"{indent}{key}:", *nested]
    value = f"{indent}{key}:  # required" if required else f"{indent}{key}: {option.default}"
    example = [f"{key}:", *nested] if len(option.inner) > 2 else []
    return ["", *comment, value, *(f"# {line}".rstrip() for line in example)]


def _title(concern: type[BaseModel]) -> str:
    if getattr(concern, "recipe", None):
        return "This recipe alone"
    return inspect.cleandoc(concern.__doc__ or "").partition("\n")[0].rstrip(".")


def _all_models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield kind
    for field in kind.model_fields.values():
        for model in models_in(field.annotation):
            yield from _all_models(model)


def _by_key(kind: type[BaseModel]) -> dict[str, str]:
    """The descriptions by the names that options have in a file."""
    texts = descriptions_of(kind)
    keys = {name: str(field.validation_alias or name) for name, field in kind.model_fields.items()}
    return {keys.get(name, name): text for name, text in texts.items()}


def _option(
    kind: type[BaseModel], key: str, properties: Mapping[str, Any], models: Mapping[str, Any], outer: str = ""
) -> OptionHelp:
    schema, inner = properties[key], []
    parts = schema.get("anyOf") or schema.get("oneOf") or [schema]
    parts = [more for part in parts for more in (part.get("oneOf") or [part])]
    for reference in [part["$ref"] for part in parts if "$ref" in part]:
        name = reference.rpartition("/")[2]
        model = next(model for model in models_in(fields_at(kind)[key].annotation) if model.__name__ == name)
        part, prefix = models[name], f"{outer}{key}."
        inner += [_option(model, field, part["properties"], models, prefix) for field in part["properties"]]
        if part["additionalProperties"] is not False:
            texts = {field: text for field, text in descriptions_of(model).items() if field.isupper()}
            inner += [
                OptionHelp(f"{prefix}{field}", "number | text", "", text, (), False) for field, text in texts.items()
            ]
    default = _in_yaml(schema["default"], key) if "default" in schema else None
    words = tuple(str(word) for part in parts for word in _choices(part))
    takes_path = any(part.get("format") == "path" for part in parts)
    kinds = " | ".join(dict.fromkeys(_type(part) for part in parts))
    return OptionHelp(f"{outer}{key}", kinds, default, _by_key(kind).get(key, ""), words, takes_path, tuple(inner))


def _choices(part: Mapping[str, Any]) -> Sequence[object]:
    if part.get("type") == "boolean":
        return ("true", "false")
    return part.get("enum") or ([part["const"]] if "const" in part else [])


def _type(part: Mapping[str, Any]) -> str:
    """A part of a JSON schema in words: `integer > 0`."""
    if words := _choices(part):
        return " | ".join(map(str, words))
    if "$ref" in part or part.get("type") == "object":
        return "{...}"
    if part.get("type") == "array":
        return "list"
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {_in_yaml(part[name])}" for name, sign in bounds.items() if abs(part.get(name, MOST)) < MOST]
    words = part.get("format") or {"string": "text"}.get(part["type"], part["type"])
    return f"{words} {', '.join(limits)}".strip()


def _in_yaml(value: object, key: str = "") -> str:
    """A value as YAML writes it on one line."""
    if isinstance(value, dict):
        return _in_yaml(value[SHORTHANDS[key]])
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return re.sub(r"e([-+])0+", r"e\1", f"{value:g}") if isinstance(value, float) else str(value)

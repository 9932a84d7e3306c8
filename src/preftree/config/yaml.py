"""YAML reader for configurations: plain data, and the line of every option.

It differs from PyYAML's safe loader in two points. Words are read by the YAML 1.2 core rules, so `1e-6` is a number and
`no` is a word. Anchors, aliases, tags, duplicate keys, deep nesting and large files are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from preftree.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 16

PlainMap = dict[str, object]


class _Loader(yaml.SafeLoader):
    """Safe loader with the words of the YAML 1.2 core schema."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _starts = [start if start != "\0" else "" for start in _first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _starts)


def _read_int(loader: _Loader, node: yaml.Node) -> int:
    assert isinstance(node, yaml.ScalarNode)
    return int(loader.construct_scalar(node))  # PyYAML's constructor reads a leading zero as octal


def _read_float(loader: _Loader, node: yaml.Node) -> float:
    assert isinstance(node, yaml.ScalarNode)
    return float(loader.construct_scalar(node).replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _read_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _read_float)


def read_yaml_file(path: Path) -> tuple[PlainMap, dict[str, int]]:
    """Read a configuration file.

    Returns:
      The options; the line of each, under its dotted name.
    Raises:
      ConfigError: the file cannot be read, is not a mapping of options, or uses what this module refuses.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ConfigError(f"{path}: a configuration has at most {MAX_BYTES} bytes; is this a data file?")
        text = raw.decode("utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give a YAML file, or options key=value"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); a configuration is a YAML file") from error
    value, lines = read_yaml(text, str(path))
    if value is None:
        return {}, {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must be a mapping of options such as `lr: 1e-6`, got a {type(value).__name__}")
    return value, lines


def read_yaml(text: str, name: str) -> tuple[object, dict[str, int]]:
    """Parse one YAML document, as `read_yaml_file` does, to any value; `name` is its source in errors."""
    try:
        _refuse_odd_events(text, name)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            lines: dict[str, int] = {}
            _check_keys(node, "", lines, name)
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}: is not valid YAML ({problem})") from error
    except ValueError as error:
        raise ConfigError(f"{name}: holds a value that cannot be read ({error})") from error


def flatten(options: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested options under dotted names."""
    flat: dict[str, object] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _refuse_odd_events(text: str, name: str) -> None:
    """Check the event stream before anything is built from it; composing is recursive, parsing is not."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{name}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError(f"{where}: anchors and aliases (& and *) are not read here; write the value out")
        if getattr(event, "tag", None) and event.tag != "!":
            raise ConfigError(f"{where}: the tag {event.tag!r} is not read here; write a plain value")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: options are nested more than {MAX_DEPTH} deep")


def _check_keys(node: yaml.Node, prefix: str, lines: dict[str, int], name: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_keys(item, f"{prefix}{index}.", lines, name)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:null"):
            raise ConfigError(f"{name}:{line}: an option's name must be a word, got {getattr(key, 'value', key)!r}")
        dotted = f"{prefix}{key.value}"
        if dotted in lines:
            raise ConfigError(f"{name}:{line}: {dotted!r} is set twice, first on line {lines[dotted]}; keep one")
        key.tag = "tag:yaml.org,2002:str"
        lines[dotted] = line
        _check_keys(value, f"{dotted}.", lines, name)

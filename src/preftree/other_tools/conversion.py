"""A configuration of another tool as ours: the options, and every key that has no counterpart, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from preftree.config.yaml import PlainMap
from preftree.errors import ConfigError


@dataclass(eq=False)
class Conversion:
    """A conversion in progress: keys are taken one by one, and what is left over is named.

    Attributes:
      tool: Name of the other tool.
      keys: Its options that have not been taken yet.
      options: Ours, so far.
      remarks: Keys with their values and why they have no counterpart, or in what ours differs.
    """

    tool: str
    keys: PlainMap
    options: dict[str, Any] = field(default_factory=dict)
    remarks: list[tuple[str, object, str]] = field(default_factory=list)

    def take(self, name: str, default: Any = None) -> Any:
        """The value of a key, which counts as read from now on."""
        value = self.keys.pop(name, None)
        return default if value is None else value

    def remark(self, name: str, value: object, reason: str) -> None:
        """Say of a key why it has no counterpart, or in what ours differs."""
        self.remarks.append((name, value, reason))

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Take keys that have no counterpart, each with its reason."""
        for name, reason in reasons.items():
            if name in self.keys:
                self.remark(name, self.keys.pop(name), reason)

    def refuse(self, sentence: str) -> ConfigError:
        """The error of a configuration that cannot be run here."""
        return ConfigError(f"this configuration of {self.tool} has no counterpart: {sentence}")

    def text(self, source: str, recipe: str) -> str:
        """Our configuration as YAML, with remarks as comments; `source` is the name of the other file."""
        for name, value in self.keys.items():
            self.remark(name, value, f"not known as a key of {self.tool}")
        lines = [f"# From {source}, a configuration of {self.tool}."]
        if self.remarks:
            lines.append("# Without a counterpart, or different here:")
        lines += [f"#   {name}: {_short(value)} - {reason}" for name, value, reason in self.remarks]
        options = {"recipe": recipe, **self.options}
        return "\n".join(lines) + "\n" + yaml.safe_dump(options, sort_keys=False, allow_unicode=True)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def put(options: dict[str, Any], dotted: str, value: object) -> None:
    """Set an inner option, such as `data.path`."""
    *outer, last = dotted.split(".")
    for name in outer:
        options = options.setdefault(name, {})
    options[last] = value

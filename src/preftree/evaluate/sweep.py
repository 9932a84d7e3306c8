"""Sweeps: runs that differ in a few options, from one command line to a checked configuration for each."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from preftree.config.load import AnyConfig, load_config
from preftree.errors import ConfigError, UserError
from preftree.runtime.signals import Stopped
from preftree.train.loop import Outcome

SNAPSHOTS = 2.0
"""Factor between the steps of snapshots where the options name none."""

log = logging.getLogger("preftree")

C = TypeVar("C", bound=AnyConfig)


@dataclass(frozen=True, slots=True)
class Variant(Generic[C]):
    """One run of a sweep.

    Attributes:
      name: Name of its folder: `beta0.1-seed1`.
      values: Values of the varied options, including the seed.
      config: All of its options.
    """

    name: str
    values: dict[str, str]
    config: C


def plan_sweep(kind: type[C], words: Sequence[str]) -> tuple[str, list[Variant[C]]]:
    """The runs that a command line asks for: every combination of `key=a,b,c` words, the last one fastest.

    Runs keep snapshots, each the size of the model, at doubling steps, or as their options say. A comma inside brackets
    or quotes separates nothing.

    Args:
      kind: The recipe's configuration.
      words: As `load_config` takes them; `out` is the folder of the sweep.
    Returns:
      The folder of the sweep, and its runs.
    Raises:
      ConfigError: nothing is varied, a value is given twice, `out` is varied or missing, or a run's options are wrong.
    """
    fixed, varied = _split(words)
    if not varied:
        raise ConfigError("a sweep needs an option with several values, such as beta=.05,.1,.5")
    if "out" in varied:
        raise ConfigError("out is the folder of the whole sweep; give one")
    out, variants = "", []
    choices = [[(key, value) for value in values] for key, values in varied.items()]
    for combination in itertools.product(*choices):
        single = load_config(kind, [*fixed, *(f"{key}={value}" for key, value in combination)])
        out = single.out
        name = "-".join(f"{key.rpartition('.')[2]}{_as_name(value)}" for key, value in combination)
        factor = single.snapshots if isinstance(single.snapshots, float) else SNAPSHOTS
        config = single.model_copy(update={"out": f"{out}/{name}", "snapshots": factor})
        variants.append(Variant(name, {key: _as_name(value) for key, value in combination}, config))
    return out, variants


def run_all(variants: Sequence[Variant[C]], run: Callable[[C], Outcome]) -> Iterator[tuple[Variant[C], str | None]]:
    """Run one after the other; each as it ends, with the sentence that stopped it where one did.

    Raises:
      Stopped: a signal asked a run to end; the others are not begun.
    """
    for number, variant in enumerate(variants, 1):
        log.info("run %d of %d: %s", number, len(variants), variant.name)
        try:
            outcome = run(variant.config)
        except UserError as error:
            log.warning("%s: %s", variant.name, error)
            yield variant, str(error)
            continue
        if outcome.signum:
            raise Stopped(outcome.signum)
        yield variant, None


def _split(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    fixed: list[str] = []
    varied: dict[str, list[str]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or "," not in text or text[:1] in "[{'\"":
            fixed.append(word)
            continue
        values = [value.strip() for value in text.split(",") if value.strip()]
        if len(values) < 2:
            raise ConfigError(f"{word!r} needs two values or more; put a value with a comma in quotes")
        if key in varied:
            raise ConfigError(f"option {key!r} is given twice; keep one")
        names = [_as_name(value) for value in values]
        if doubled := [value for index, value in enumerate(values) if names[index] in names[:index]]:
            raise ConfigError(f"{word!r} gives {doubled[0]} twice; keep one")
        varied[key] = values
    return fixed, varied


def _as_name(value: str) -> str:
    """A value as part of a folder's name: `.1` and `0.1` are the same number."""
    try:
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    except ValueError:
        return re.sub(r"[^\w.+-]+", "_", value).strip("_.") or "_"

"""`preftree doctor`: versions, devices, memory and disk of this machine, and what it can train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from preftree.cli.cache import end_of, entries_of, size_in_words
from preftree.cli.shared import AsJson, announce
from preftree.runtime.paths import cache_root


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what this machine computes on, and how large a model it can train."""
    if not as_json:
        announce("a look at this machine")
    import psutil
    import torch

    from preftree.runtime.machine import best_device, devices, extras, free_bytes, largest_models, versions
    from preftree.scoring.bf16_on_cpu import emulated

    there, cache = devices(emulated(torch.device("cpu"))), cache_root()
    memory = psutil.virtual_memory()
    used = sum(entry.size for entry in entries_of(cache))
    facts: dict[str, Any] = {
        "versions": versions(),
        "extras": extras(),
        "devices": [
            {"name": one.name, "words": one.words, "memory_bytes": one.memory, "bf16": one.bf16} for one in there
        ],
        "used": best_device().type,
        "memory_bytes": memory.total,
        "memory_free_bytes": memory.available,
        "disk_free_bytes": free_bytes(Path.cwd()),
        "cache": {"path": str(cache), "bytes": used, "disk_free_bytes": free_bytes(cache)},
        "largest_parameters": largest_models(there[0].memory),
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for line in _lines(facts):
        typer.echo(line)


def _lines(facts: dict[str, Any]) -> list[str]:
    """The facts for people, within 80 columns."""
    names = [f"{name} {number}" for name, number in facts["versions"].items()]
    has = [name for name, is_there in facts["extras"].items() if is_there]
    lacks = [name for name, is_there in facts["extras"].items() if not is_there]
    lines = ["installed", *(f"  {name}" for name in names)]
    lines += [f"  extras: {', '.join(has) or 'none'}", f"  not installed: {', '.join(lacks) or 'none'}", "devices"]
    for number, one in enumerate(facts["devices"]):
        mark = "used" if number == 0 else "there"
        lines.append(f"  {one['name']:7} {mark:5} {size_in_words(one['memory_bytes']):>8}  bf16 {one['bf16']}")
        lines.append(f"          {one['words']}")
    lines += [
        "memory and disk",
        f"  memory  {size_in_words(facts['memory_bytes'])}, free {size_in_words(facts['memory_free_bytes'])}",
        f"  disk    free here {size_in_words(facts['disk_free_bytes'])}",
        f"  cache   {size_in_words(facts['cache']['bytes'])} in {end_of(facts['cache']['path'], 54)}",
        f"parameters that {facts['devices'][0]['name']} can train; a third is for activations",
    ]
    lines += [f"  {way:36} {_parameters(number)}" for way, number in facts["largest_parameters"].items()]
    return lines


def _parameters(number: float) -> str:
    return f"{number / 1e9:.2g} B" if number >= 1e9 else f"{number / 1e6:.0f} M"

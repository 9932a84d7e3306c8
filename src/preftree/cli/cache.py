"""`preftree cache`: what the cache holds, of which data and models, and the removal of what is old or too much."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from preftree.cli.shared import AsJson
from preftree.errors import ConfigError
from preftree.runtime.paths import cache_root
from preftree.storage.atomic import disk_faults, remove_dir

app = typer.Typer(no_args_is_help=True)

DAY = 86400
GRACE = 3600
"""Seconds after its last use for which an entry is never removed: a run that is starting may be about to open it."""

Folder = Annotated[
    Path | None, typer.Option("--cache", help="The cache.  [default: $PREFTREE_CACHE, or ~/.cache/preftree]")
]


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A token store or a reference table.

    Attributes:
      path: Its folder.
      kind: `tokens` or `table`.
      size: Bytes of its files.
      used: Time of the last use, in seconds since 1970: of its files, the last time that one was read or written.
      of: The data of a store, or the model of a table.
    """

    path: Path
    kind: str
    size: int
    used: float
    of: str

    def as_json(self) -> dict[str, object]:
        """The entry as plain JSON."""
        row: dict[str, object] = {"path": str(self.path), "kind": self.kind, "bytes": self.size, "of": self.of}
        return row | {"days_since_use": round((time.time() - self.used) / DAY, 2)}


@app.callback()
def _root() -> None:
    """Tokenised data and reference tables; deleting them costs the next run their computation, and nothing else."""


@app.command("list")
def list_entries(cache: Folder = None, as_json: AsJson = False) -> None:
    """List what the cache holds, largest first."""
    folder = cache or cache_root()
    entries = sorted(entries_of(folder), key=lambda entry: -entry.size)
    if as_json:
        typer.echo(json.dumps({"cache": str(folder), "entries": [entry.as_json() for entry in entries]}, indent=1))
        return
    _print(entries)
    typer.echo(f"{folder}: {len(entries)} entries, {size_in_words(sum(entry.size for entry in entries))}")


@app.command("prune")
def prune(
    older_than: Annotated[
        str | None, typer.Option(metavar="DAYS", help="Remove what was not used for so long, such as 30d.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Remove the longest unused until so much is left, such as 20GB.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name what would be removed, and remove nothing.")] = False,
    cache: Folder = None,
) -> None:
    """Remove entries by age, by size, or both; never one that a process holds, or that was used within the hour."""
    if older_than is None and keep is None:
        raise ConfigError("cache prune removes by age or by size: give --older-than 30d, --keep 20GB, or both")
    folder, now = (cache or cache_root()).resolve(), time.time()  # as the files that processes hold are named
    entries = sorted(entries_of(folder), key=lambda entry: entry.used)
    doomed = [] if older_than is None else [one for one in entries if now - one.used > _days(older_than) * DAY]
    if keep is not None:
        left, most = sum(entry.size for entry in entries if entry not in doomed), _bytes(keep)
        for entry in entries:
            if left > most and entry not in doomed:
                doomed.append(entry)
                left -= entry.size
    held = held_files()
    kept = [entry for entry in doomed if now - entry.used < GRACE or any(entry.path in file.parents for file in held)]
    doomed = [entry for entry in doomed if entry not in kept]
    _print(doomed)
    for entry in () if dry_run else doomed:
        with disk_faults("mend that, and give the command again"):
            remove_dir(entry.path)
    deed = "would be removed" if dry_run else "removed"
    typer.echo(f"{folder}: {len(doomed)} entries {deed}, {size_in_words(sum(entry.size for entry in doomed))}")
    if kept:
        typer.echo(f"{len(kept)} more are in use, or were within the hour, and stay", err=True)


def entries_of(folder: Path) -> list[CacheEntry]:
    """The token stores and reference tables of a cache, whatever else is in it."""
    found = []
    for kind, part in (("tokens", "tokens"), ("table", "tables")):
        for path in sorted((folder / part).glob("*/")):
            if re.fullmatch(r"[0-9a-f]{32}", path.name) is None or not path.is_dir():
                continue
            stats = [file.stat() for file in path.rglob("*") if file.is_file()]
            used = max((max(stat.st_atime, stat.st_mtime) for stat in stats), default=path.stat().st_mtime)
            size = sum(stat.st_size for stat in stats)
            of = _data_of(path) if kind == "tokens" else _model_of(path)
            found.append(CacheEntry(path, kind, size, used, of))
    return found


def held_files() -> set[Path]:
    """Files that a process of this machine has opened or mapped, as far as this user may know."""
    import psutil

    held: set[Path] = set()
    for process in psutil.process_iter():
        for read in (process.open_files, getattr(process, "memory_maps", list)):
            try:
                held |= {Path(file.path).resolve() for file in read()}
            except (psutil.Error, OSError):  # it has ended, or is another user's
                continue
    return held


def size_in_words(size: int | float) -> str:
    """A number of bytes with its unit, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _print(entries: list[CacheEntry]) -> None:
    now = time.time()
    for entry in entries:
        days, of = (now - entry.used) / DAY, entry.of
        shown = end_of(of, 40)
        typer.echo(f"{entry.kind:6} {size_in_words(entry.size):>9} {days:6.1f} days  {entry.path.name[:8]}  {shown}")


def _data_of(path: Path) -> str:
    try:
        return ", ".join(map(str, json.loads((path / "meta.json").read_bytes())["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return "?"


def _model_of(path: Path) -> str:
    try:
        return (path / "model.txt").read_text("utf-8", "replace").strip()
    except OSError:  # of an earlier version
        return "?"


def _days(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)d?", text)
    if match is None:
        raise ConfigError(f"--older-than must be a number of days, such as 30d, got {text!r}")
    return float(match[1])


def _bytes(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(k|M|G|T)B", text)
    if match is None:
        raise ConfigError(f"--keep must be a size with kB, MB, GB or TB, such as 20GB, got {text!r}")
    return float(match[1]) * {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2]]


def end_of(path: str, most: int) -> str:
    """A path as it is, or its end after dots where it is longer than `most` characters."""
    return path if len(path) <= most else f"...{path[3 - most :]}"

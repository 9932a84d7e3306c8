"""Folders of results: only an empty folder, or one that Preftree has made, is written to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from preftree.errors import ConfigError
from preftree.storage.atomic import clear_leftovers, disk_faults, make_folder
from preftree.storage.lock import MARK, is_marked, lock_run

_TRACES = (
    ("config.yaml", "metrics.jsonl"),
    ("checkpoints/step-*/MANIFEST.json",),
    ("plan.json", "sft/config.yaml"),
    ("plan.json", "seed*/sft/config.yaml"),
    ("sweep.json", "report.html"),
    (f"*/{MARK}", "*/config.yaml"),
    ("responses/*.jsonl.job",),
)
"""Files that folders of earlier versions hold, which were not marked: of a run, a demo, a sweep, a comparison."""


@contextmanager
def own_folder(folder: Path, option: str = "out=") -> Iterator[None]:
    """Reserve a folder of results for this process while the context lasts; it is made, or is one of ours.

    What killed processes left half-written in it is removed.

    Args:
      folder: The folder.
      option: Option that names it, for the error's advice.
    Raises:
      ConfigError: it holds files of something else, or is a file.
      TrainingError: another living process works in it.
      WriteError: it cannot be made or marked.
    """
    check_own(folder, option)
    with ExitStack() as stack:
        with disk_faults(f"mend that, or choose another folder with {option}"):
            make_folder(folder)
            stack.enter_context(lock_run(folder))
            clear_leftovers(folder)
        yield


def check_own(folder: Path, option: str = "out=") -> None:
    """Refuse a folder that is neither empty nor marked as one of Preftree's.

    Raises:
      ConfigError: it holds files of something else, or is a file.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and a folder is wanted; choose another {option}")
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read ({error.strerror}); choose another {option}") from error
    if not names or names == [MARK] or is_marked(folder) or _has_traces(folder):
        return
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    raise ConfigError(
        f"{folder} holds {shown}, and no run or result of Preftree; nothing was written: choose a new or empty {option}"
    )


def _has_traces(folder: Path) -> bool:
    return any(all(any(folder.glob(name)) for name in names) for names in _TRACES)

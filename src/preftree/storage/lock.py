"""Locks that end with the process that holds them.

A lock is `flock` on an open file or folder. The kernel drops it when the holder dies, however it dies, so there is
never a stale one to judge by a process id.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preftree.errors import TrainingError

_held: set[int] = set()


def _let_go_in_child() -> None:
    """A forked worker that outlives a killed trainer must not keep the trainer's locks."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


def take_lock(path: Path, *, wait: bool, create: bool = False) -> int | None:
    """Lock an existing file or folder, or a file that is made if missing; give the result to `release_lock`.

    Returns:
      A descriptor of what stands at `path`, or None where another process holds the lock and `wait` is false.

    Raises:
      FileNotFoundError: nothing stands there, and `create` is false.
    """
    flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
    while True:
        descriptor = os.open(path, flags, 0o666)
        _held.add(descriptor)
        ours = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            # While this process waited, the former holder may have moved the path away or put another in its place.
            if path.exists() and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                ours = True
                return descriptor
        except BlockingIOError:
            return None
        finally:
            if not ours:
                release_lock(descriptor)


def release_lock(descriptor: int) -> None:
    """Give back what `take_lock` returned."""
    _held.discard(descriptor)
    os.close(descriptor)


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep a run's folder to one trainer for as long as the block runs.

    Raises:
      TrainingError: another living process trains in this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    descriptor = take_lock(path, wait=False, create=True)
    if descriptor is None:
        holder = path.read_text(errors="replace").strip() or "another process"
        raise TrainingError(f"{folder} is in use by {holder}; wait until it ends, or choose another folder with out=")
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        release_lock(descriptor)

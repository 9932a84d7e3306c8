"""Locks that end with the process that holds them.

A lock is `flock` on an open file or folder. The kernel releases it when the holder dies, for whatever reason, so there
are no stale locks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preftree.errors import ConfigError, TrainingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MARK = ".lock"
_HOLDER = "process "

_held: set[int] = set()


def _release_in_child() -> None:
    """Release the locks in a forked worker, which may outlive a killed trainer."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_release_in_child)


def take_lock(path: Path, *, wait: bool, create: bool = False) -> int | None:
    """Lock an existing file or folder; `release_lock` takes the result.

    Args:
      path: The file or folder.
      wait: Whether to wait while another process holds the lock.
      create: Whether to create a missing file.
    Returns:
      A descriptor of the file or folder; None where another process holds the lock and `wait` is false.
    Raises:
      FileNotFoundError: nothing is at `path`, and `create` is false.
      ConfigError: the system has no such locks.
    """
    if fcntl is None:
        raise ConfigError(
            "this system has no locks that end with a process, and without them two runs could write one folder; on "
            "Windows run Preftree in WSL (docs/platforms.md)"
        )
    flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
    while True:
        descriptor = os.open(path, flags, 0o666)
        _held.add(descriptor)
        is_locked = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            # While this process waited, the former holder may have moved or replaced the path.
            if path.exists() and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                is_locked = True
                return descriptor
        except BlockingIOError:
            return None
        finally:
            if not is_locked:
                release_lock(descriptor)


def release_lock(descriptor: int) -> None:
    """Release a lock that `take_lock` returned."""
    _held.discard(descriptor)
    os.close(descriptor)


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Reserve a folder of results for this process while the context lasts, and mark it as one of Preftree's.

    Raises:
      TrainingError: another living process works in this folder.
      OSError: the mark cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MARK
    descriptor = take_lock(path, wait=False, create=True)
    if descriptor is None:
        holder = path.read_text(errors="replace").strip() or "another process"
        raise TrainingError(f"{folder} is in use by {holder}; wait until it ends, or choose another folder with out=")
    try:
        holder = f"{_HOLDER}{os.getpid()} on {socket.gethostname()}\n".encode()
        try:
            os.pwrite(descriptor, holder, 0)  # the mark of an earlier holder stays until it is overwritten
            os.ftruncate(descriptor, len(holder))
        except OSError as error:
            error.filename = str(path)
            raise
        yield
    finally:
        release_lock(descriptor)


def is_marked(folder: Path) -> bool:
    """Whether `lock_run` has held a folder."""
    try:
        return (folder / MARK).read_text(errors="replace").startswith(_HOLDER)
    except OSError:
        return False

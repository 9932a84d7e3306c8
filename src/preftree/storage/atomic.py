"""Files and folders that are complete or absent.

New content is written beside its target under a hidden name until every byte has reached the disk; a rename then puts
it in place. There are three hidden names, each with eight random hex digits in the middle:

    .NAME.xxxxxxxx.staging    being written
    .NAME.xxxxxxxx.replaced   the old NAME, while a new one takes its place
    .NAME.xxxxxxxx.deleted    being deleted

A process holds a lock on what it stages or replaces. A hidden name without a lock was left by a process that died, and
`clear_leftovers` can remove it while other processes are at work.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from preftree.errors import WriteError
from preftree.storage.lock import release_lock, take_lock

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR)  # for reading as for writing

_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)  # errors of renaming a folder onto another
_HIDDEN = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>staging|replaced|deleted)", re.DOTALL)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file, or leave the old one unchanged.

    Raises:
      OSError: the file could not be written; it names the file.
    """
    with staged_file(path) as staging, open(staging, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def staged_file(final: Path) -> Iterator[Path]:
    """A path to write to; the file there becomes `final` when the context ends, and is deleted when it raises.

    Raises:
      OSError: the file could not be written; it names `final`, and the old file is unchanged.
    """
    with _naming(final):
        clear_leftovers(final.parent, final.name)
        staging, lock = _new_staging(final, folder=False)
        try:
            yield staging
            fsync_folder(staging)
            is_new = not os.path.lexists(final)
            os.replace(staging, final)
            try:
                fsync_folder(final.parent)
            except OSError:
                if is_new:  # reported as not written, so the same command must not meet it
                    final.unlink(missing_ok=True)
                raise
        finally:
            staging.unlink(missing_ok=True)  # absent once it is renamed
            release_lock(lock)


def write_result(path: Path, content: str, *, advice: str) -> None:
    """Write a whole file that a user asked for, and make its folder.

    Raises:
      WriteError: it cannot be written; the sentence ends with the advice.
    """
    try:
        make_folder(path.parent)
        write_atomic(path, content)
    except OSError as error:
        raise WriteError(f"{path} cannot be written ({error.strerror}); {advice}") from error


@contextmanager
def disk_faults(advice: str = "mend that, or choose another place, and repeat the command") -> Iterator[None]:
    """Turn the errors of a disk in the context into one sentence: it is full, read-only, or closed; others pass.

    Raises:
      WriteError: a file or a folder could not be written, or opened.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*_FULL, *_CLOSED):
            raise
        what = "a file" if error.filename is None else os.fsdecode(error.filename)
        deed = "written" if error.errno in _FULL else "opened"
        raise WriteError(f"{what} cannot be {deed} ({error.strerror}); {advice}") from error


@contextmanager
def _naming(final: Path) -> Iterator[None]:
    """Let errors name what is written instead of its hidden name; safetensors' error of a disk is one of the system."""
    try:
        yield
    except OSError as error:
        if error.filename is None or _hidden_part(error.filename):
            error.filename, error.filename2 = str(final), None
        raise
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(final)) from error


@contextmanager
def staged_dir(final: Path) -> Iterator[Path]:
    """An empty folder to fill; it becomes `final` when the context ends, and is deleted when the context raises.

    An older folder `final` is replaced, a file is not. Parents are made as needed.

    Raises:
      OSError: the folder could not be written or moved into place; it names `final`, which is unchanged.
    """
    with _naming(final):
        make_folder(final.parent)
        clear_leftovers(final.parent, final.name)
        staging, lock = _new_staging(final, folder=True)
        try:
            yield staging
            for folder, _, names in os.walk(staging, topdown=False):
                for name in names:
                    fsync_folder(Path(folder, name))
                fsync_folder(Path(folder))
            _move_into_place(staging, final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # absent once it is renamed
            release_lock(lock)


def remove_dir(path: Path) -> None:
    """Delete a folder so that its name never shows half of it."""
    hidden = _hidden(path, "deleted")
    os.rename(path, hidden)
    fsync_folder(path.parent)
    _delete(hidden)


def clear_leftovers(parent: Path, name: str | None = None) -> None:
    """Remove hidden names in `parent` (of `name` alone, where given) that dead processes left.

    A folder that was moved aside by a process that died before the new one took its place is moved back.
    """
    for path in parent.iterdir():
        match = _HIDDEN.fullmatch(path.name)
        if match is None or (name is not None and match["name"] != name):
            continue
        try:
            lock = take_lock(path, wait=False)
        except FileNotFoundError:  # another process has removed it
            continue
        if lock is None:
            continue
        try:
            final = parent / match["name"]
            if match["kind"] == "replaced" and not os.path.lexists(final):
                os.rename(path, final)
                fsync_folder(parent)
            else:
                _delete(path)
        finally:
            release_lock(lock)


def make_folder(path: Path) -> None:
    """Create a folder and its parents; their names are on the disk on return."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        fsync_folder(folder.parent)


def append_durably(path: Path, content: bytes) -> None:
    """Append to a file; the content is on the disk on return.

    Raises:
      OSError: the file could not be written; what was in it before is all that is in it.
    """
    with _naming(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise


def fsync_folder(path: Path) -> None:
    """Wait until the names in a folder, or the bytes of a file, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hidden_part(path: object) -> bool:
    parts = Path(os.fsdecode(path)).parts if isinstance(path, str | bytes | os.PathLike) else ()
    return any(_HIDDEN.fullmatch(part) for part in parts)


def _hidden(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


def _new_staging(final: Path, *, folder: bool) -> tuple[Path, int]:
    while True:
        staging = _hidden(final, "staging")
        if folder:
            staging.mkdir()
        try:
            lock = take_lock(staging, wait=True, create=not folder)
        except FileNotFoundError:  # before it was locked, another process removed it as a leftover
            continue
        assert lock is not None
        return staging, lock


def _move_into_place(staging: Path, final: Path) -> None:
    while True:
        try:
            os.rename(staging, final)
            break
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise
        try:
            lock = take_lock(final, wait=True)
        except FileNotFoundError:  # another process replaces it and is between its two renames
            continue
        assert lock is not None
        old = _hidden(final, "replaced")
        try:
            os.rename(final, old)
            try:
                os.rename(staging, final)
            except OSError as error:
                if error.errno in _OCCUPIED:  # another process was faster, and its folder is newer than the old one
                    continue
                os.rename(old, final)
                raise
            fsync_folder(final.parent)  # the new name is on disk before the old files go
            return
        finally:
            if os.path.lexists(final):
                _delete(old)
            release_lock(lock)
    try:
        fsync_folder(final.parent)
    except OSError:
        os.rename(final, staging)  # reported as not written, so the same command must not meet it
        raise


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

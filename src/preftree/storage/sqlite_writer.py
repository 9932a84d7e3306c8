"""The one thread that writes an SQLite file: it commits what has come in meanwhile as one transaction, then answers."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from preftree.errors import WriteError

T = TypeVar("T")

MOST_AT_ONCE = 1000
"""Jobs of one transaction."""


@dataclass(frozen=True, slots=True)
class _Job:
    deed: Callable[[sqlite3.Connection], Any]
    answer: Future[Any]


class Writer:
    """A thread with the only connection of this process that writes.

    A job's future has its result after the COMMIT that holds it, which returns when the disk has the bytes
    (`PRAGMA synchronous = FULL`). A job that raises is undone by itself; the others of its transaction are kept.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, *, advice: str) -> None:
        """Begin to write.

        Args:
          path: The file, for errors.
          connection: A connection that nothing else uses.
          advice: What to do once the disk takes bytes again, for errors.
        """
        self._path, self._advice = path, advice
        self._connection = connection
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="SQLite writer", daemon=True)
        self._thread.start()

    def submit(self, deed: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Do something in a transaction.

        Returns:
          A future of what it returns, done when that is on the disk; it raises WriteError where the disk refuses.
        """
        answer: Future[T] = Future()
        self._jobs.put(_Job(deed, answer))
        return answer

    def close(self) -> None:
        """Commit what has come in, and end the thread."""
        self._jobs.put(None)
        self._thread.join()
        self._connection.close()

    def _work(self) -> None:
        is_open = True
        while is_open:
            jobs = [self._jobs.get()]
            while len(jobs) < MOST_AT_ONCE and jobs[-1] is not None:
                try:
                    jobs.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            is_open = jobs[-1] is not None
            self._commit([job for job in jobs if job is not None])

    def _commit(self, jobs: list[_Job]) -> None:
        done: list[tuple[_Job, Any]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._connection.execute("SAVEPOINT job")
                try:
                    done.append((job, job.deed(self._connection)))
                except sqlite3.OperationalError:
                    raise
                except Exception as error:
                    self._connection.execute("ROLLBACK TO job")
                    job.answer.set_exception(error)
                self._connection.execute("RELEASE job")
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            refusal: BaseException = error
            if isinstance(error, sqlite3.Error):
                refusal = WriteError(f"{self._path} cannot be written ({error}); see to the disk, then {self._advice}")
                refusal.__cause__ = error
            for job in jobs:
                if not job.answer.done():
                    job.answer.set_exception(refusal)
            return
        for job, result in done:
            job.answer.set_result(result)

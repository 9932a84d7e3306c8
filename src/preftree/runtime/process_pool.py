"""Process pool that forwards signals: each job has a separate process, and so a separate peak of memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from preftree.errors import TrainingError, UserError
from preftree.runtime.signals import SIGNALS, Stopped, stop_on_signals

J = TypeVar("J")
R = TypeVar("R")

POLL_SECONDS = 0.2
"""Longest time before a signal is forwarded."""


@dataclass(frozen=True, slots=True)
class _Running(Generic[J]):
    job: J
    process: BaseProcess


def run_in_pool(
    jobs: Sequence[J], work: Callable[[J], R], *, at_once: int, begin: Callable[[], None] | None = None
) -> Iterator[tuple[J, R]]:
    """Run each job in a new process; yields jobs with their results in the order in which they end.

    The processes are forked from a server that has imported the libraries, so each starts fast. Ctrl-C and SIGTERM
    are forwarded to all processes, which have time to save before they end. If a job raises an error, the others get a
    SIGTERM and the same time.

    Args:
      jobs: Arguments of `work`; must be picklable.
      work: A module's function; its result must be picklable.
      at_once: Most processes at a time.
      begin: A module's function that each process calls first.
    Raises:
      Stopped: a signal ended the jobs, sent to this process or to one of theirs.
      UserError: the error that a job raised.
      TrainingError: the process of a job died for another reason.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["torch", "transformers", work.__module__])
    waiting = deque(jobs)
    running: dict[Connection, _Running[J]] = {}
    is_forwarded = False
    with stop_on_signals("the runs under way end their step and save, and the command stops") as request:
        try:
            while True:
                while waiting and len(running) < at_once and not request.signum:
                    job = waiting.popleft()
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(  # pyright: ignore[reportAttributeAccessIssue]  # every context has one
                        target=_run_job, args=(sender, begin, work, job)
                    )
                    process.start()
                    sender.close()  # so that the pipe ends when the process dies
                    running[receiver] = _Running(job, process)
                if request.signum and not is_forwarded:
                    _send_signal(request.signum, running.values())
                    is_forwarded = True
                if not running:
                    break
                for receiver in wait(list(running), POLL_SECONDS):
                    assert isinstance(receiver, Connection)
                    ended = running.pop(receiver)
                    result, error = _receive(receiver, ended.process)
                    if error is None:
                        yield ended.job, result
                    elif not request.signum:
                        raise error
        finally:
            if running and not is_forwarded:
                _send_signal(signal.SIGTERM, running.values())
            for remaining in running.values():
                remaining.process.join()
    if request.signum:
        raise Stopped(request.signum)


def _run_job(sender: Connection, begin: Callable[[], None] | None, work: Callable[[Any], Any], job: Any) -> None:
    """Run the job in the new process and send (result, error).

    The process leaves the terminal's group, so that Ctrl-C comes once, from the parent: a second signal ends it.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    for number in SIGNALS:  # a run handles signals only while it lasts
        signal.signal(number, signal.default_int_handler)
    try:
        if begin is not None:
            begin()
        sender.send((work(job), None))
    except KeyboardInterrupt:
        sender.send((None, Stopped(signal.SIGINT)))
    except (UserError, Stopped, OSError) as error:  # any other exception is a bug, and prints its traceback here
        sender.send((None, error))


def _receive(receiver: Connection, process: BaseProcess) -> tuple[Any, BaseException | None]:
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        reason = "it may have run out of memory" if code < 0 else "its error message is printed above"
        return None, TrainingError(
            f"the process of a run died with exit code {code}; {reason}. The same command resumes "
            "from its last checkpoint"
        )
    finally:
        receiver.close()
        process.join()


def _send_signal(signum: int, running: Iterable[_Running[Any]]) -> None:
    for job in running:
        if job.process.pid is not None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(job.process.pid, signum)

"""Runs in processes of their own, several at a time: each has its own peak of memory, and one signal ends them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from preftree.errors import TrainingError, UserError
from preftree.runtime.signals import SIGNALS, stop_on_signals

J = TypeVar("J")
R = TypeVar("R")

SECONDS_BETWEEN_LOOKS = 0.2
"""How long a signal may wait before it is passed on."""


@dataclass(frozen=True, slots=True)
class _Running(Generic[J]):
    job: J
    process: BaseProcess


def run_apart(
    jobs: Sequence[J], work: Callable[[J], R], *, at_once: int, begin: Callable[[], None] | None = None
) -> Iterator[tuple[J, R]]:
    """Do each job in a new process; each with its result as it ends, in whatever order that is.

    The processes come from a server that has imported the libraries once, so beginning one costs little. Ctrl-C and
    SIGTERM are passed on, and waited for: a run that notes signals saves before it ends. So are the others ended and
    waited for where one job raises an error.

    Args:
      jobs: What to do; they are pickled.
      work: A function of a module; its result is pickled.
      at_once: Most processes at a time.
      begin: Called first in each process; a function of a module.
    Raises:
      Stopped: a signal ended the jobs, by the parent or by themselves.
      UserError: what a job raised.
      TrainingError: the process of a job died of something else.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["torch", "transformers", work.__module__])
    coming = deque(jobs)
    running: dict[Connection, _Running[J]] = {}
    told = 0
    with stop_on_signals() as request:
        try:
            while True:
                while coming and len(running) < at_once and not request.signum:
                    job = coming.popleft()
                    ours, theirs = context.Pipe(duplex=False)
                    process = context.Process(  # pyright: ignore[reportAttributeAccessIssue]  # every context has one
                        target=_alone, args=(theirs, begin, work, job)
                    )
                    process.start()
                    theirs.close()  # so that a process that dies is the end of the pipe
                    running[ours] = _Running(job, process)
                if request.signum and not told:
                    told = _pass_on(request.signum, running)
                if not running:
                    break
                for ready in wait(list(running), SECONDS_BETWEEN_LOOKS):
                    assert isinstance(ready, Connection)
                    ended = running.pop(ready)
                    result, error = _read(ready, ended)
                    if error is None:
                        yield ended.job, result
                    elif not request.signum:
                        raise error
        finally:
            if running and not told:
                _pass_on(signal.SIGTERM, running)
            for left in running.values():
                left.process.join()
    if request.signum:
        raise Stopped(request.signum)


def _alone(pipe: Connection, begin: Callable[[], None] | None, work: Callable[[Any], Any], job: Any) -> None:
    """In the new process: do the job and send what came of it: (result, error).

    The process leaves the terminal's group: Ctrl-C comes once, from the parent, since a second one ends a run at once.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    for number in SIGNALS:  # before a run notes signals, and after it
        signal.signal(number, signal.default_int_handler)
    try:
        if begin is not None:
            begin()
        pipe.send((work(job), None))
    except KeyboardInterrupt:
        pipe.send((None, Stopped(signal.SIGINT)))
    except (UserError, Stopped) as error:  # anything else is a fault of ours, and prints its own traceback here
        pipe.send((None, error))


def _read(pipe: Connection, ended: _Running[Any]) -> tuple[Any, BaseException | None]:
    try:
        return pipe.recv()
    except EOFError:
        ended.process.join()
        code = ended.process.exitcode or 0
        why = "perhaps for want of memory" if code < 0 else "its last words stand above"
        return None, TrainingError(
            f"the process of a run died with exit code {code}, {why}; the same command goes on from its last checkpoint"
        )
    finally:
        pipe.close()
        ended.process.join()


def _pass_on(signum: int, running: dict[Connection, _Running[Any]]) -> int:
    for one in running.values():
        if one.process.pid is not None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(one.process.pid, signum)
    return signum


class Stopped(Exception):
    """A signal stopped a run; what is done is kept, and the same command goes on from there."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)  # as it was given, so that it can be pickled
        self.signum = signum

"""Runs in processes of their own, several at a time: each has its own peak of memory, and one signal ends them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from preftree.train.signals import SIGNALS, stop_on_signals
from preftree.train.sweep import Stopped

J = TypeVar("J")
R = TypeVar("R")

SECONDS_BETWEEN_LOOKS = 0.2
"""How long a signal may wait before it is passed on."""


def run_apart(
    jobs: Sequence[J], work: Callable[[J], R], *, at_once: int, begin: Callable[[], None] | None = None
) -> Iterator[tuple[J, R]]:
    """Do each job in a new process; each with its result as it ends, in whatever order that is.

    The processes come from a server that has imported the libraries once, so beginning one costs little. Ctrl-C and
    SIGTERM are passed on, and waited for: a run that notes signals saves before it ends. So does a job's error.

    Args:
      jobs: What to do; they are pickled.
      work: A function of a module; its result is pickled.
      at_once: Most processes at a time.
      begin: Called first in each process; a function of a module.
    Raises:
      Stopped: a signal ended the jobs, by the parent or by themselves.
      Exception: what a job raised; the others are ended first.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["torch", "transformers", work.__module__])
    coming = iter(jobs)
    running: dict[Future[R], J] = {}
    told = 0
    with (
        stop_on_signals() as request,
        ProcessPoolExecutor(at_once, context, _alone, (begin,), max_tasks_per_child=1) as pool,
    ):
        try:
            while True:
                while len(running) < at_once and not request.signum:
                    job = next(coming, None)
                    if job is None:
                        break
                    running[pool.submit(work, job)] = job
                if request.signum and not told:
                    told = _pass_on(request.signum)
                if not running:
                    break
                for future in wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except (Stopped, BrokenProcessPool, KeyboardInterrupt):
            if not request.signum:
                raise
        except BaseException:
            if not told:
                _pass_on(signal.SIGTERM)
            raise
    if request.signum:
        raise Stopped(request.signum)


def _alone(begin: Callable[[], None] | None) -> None:
    """Leave the terminal's group: Ctrl-C comes once, from the parent, since a second one ends a run at once.

    Outside of a run either signal is an exception of the job, since a process that dies takes the pool with it.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    if begin is not None:
        begin()


def _pass_on(signum: int) -> int:
    for process in multiprocessing.active_children():
        if process.pid is not None:
            os.kill(process.pid, signum)
    return signum

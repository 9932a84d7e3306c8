"""Ctrl-C and SIGTERM: the first signal asks a run to save and end, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal stopped a run, which has saved its state; the same command resumes from there."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)  # the only argument, so that the exception can be pickled
        self.signum = signum


@dataclass(eq=False)
class StopRequest:
    """Request of a signal to end the run.

    Attributes:
      signum: Number of the first signal; 0 while there is none.
    """

    signum: int = 0


@contextmanager
def stop_on_signals(words: str = "") -> Iterator[StopRequest]:
    """Record Ctrl-C and SIGTERM while the context lasts; afterwards restore the earlier handlers.

    Args:
      words: What happens next, printed on stderr at the first signal; empty prints nothing.
    """
    request = StopRequest()

    def record(signum: int, _frame: FrameType | None) -> None:
        if request.signum:
            os._exit(128 + signum)
        request.signum = signum
        if words:
            _say(f"\n{signal.Signals(signum).name}: {words}; a second one ends it at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, record) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """Write on stderr from a handler: no buffer, and no lock that the interrupted code may hold."""
    with suppress(OSError):
        os.write(2, text.encode())

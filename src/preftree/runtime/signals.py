"""Ctrl-C and SIGTERM: the first asks a run to save and end, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(eq=False)
class StopRequest:
    """Which signal asked the run to end; 0 while none has."""

    signum: int = 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Take note of Ctrl-C and SIGTERM while the block runs; the handlers of before come back afterwards."""
    request = StopRequest()

    def note(signum: int, _frame: FrameType | None) -> None:
        if request.signum:
            os._exit(128 + signum)
        request.signum = signum

    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

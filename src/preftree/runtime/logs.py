"""Log of the command line on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class StderrHandler(logging.Handler):
    """Handler that prints to the current stderr, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; where details are asked for, with the seconds since the program started."""
        text = self.format(record)
        if logging.getLogger("preftree").isEnabledFor(logging.DEBUG):
            text = f"{record.relativeCreated / 1000:8.2f} s  {text}"
        print(f"warning: {text}" if record.levelno >= logging.WARNING else text, file=sys.stderr)


def quiet_transformers() -> None:
    """Turn off the progress bars of transformers for loading and saving weights, and with -v show its messages."""
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    if logging.getLogger("preftree").isEnabledFor(logging.DEBUG):
        hf_logging.set_verbosity_info()


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Show the log on stderr as the command line does, unless the program has configured logging."""
    log = logging.getLogger("preftree")
    if log.handlers or logging.getLogger().handlers:
        yield
        return
    handler, level, propagate = StderrHandler(), log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate

"""Log of the command line on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class StderrHandler(logging.Handler):
    """Handler that prints to the current stderr, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        text = self.format(record)
        print(f"warning: {text}" if record.levelno >= logging.WARNING else text, file=sys.stderr)


def quiet_transformers() -> None:
    """Turn off the progress bars of transformers for loading and saving weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()


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

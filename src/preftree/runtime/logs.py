"""The log of the command line, on stderr."""

from __future__ import annotations

import logging
import sys


class _Stderr(logging.Handler):
    """Prints to whatever stderr is at the moment: a progress bar puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        print(f"warning: {text}" if record.levelno >= logging.WARNING else text, file=sys.stderr)


def quiet_transformers() -> None:
    """No bars for loading and saving weights between our own lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()

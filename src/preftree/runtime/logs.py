"""Log of the command line on stderr."""

from __future__ import annotations

import logging
import sys


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

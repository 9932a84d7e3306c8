"""Errors that a user can correct.

The message is one sentence: subject, requirement, actual value, origin, remedy. The command line prints it without a
traceback and exits with 2.
"""

import re

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class UserError(Exception):
    """A mistake or a failure outside the program; the message names the remedy.

    A message may quote a file, a template or another program: what would steer a terminal is shown as text.
    """

    def __str__(self) -> str:
        return visible(super().__str__())


class ConfigError(UserError):
    """An option is unknown, missing, or has an invalid value."""


class DataError(UserError):
    """A data file is missing, cannot be read, or holds too many faulty rows."""


class ModelError(UserError):
    """A model or tokenizer cannot be loaded, or does not support the requested use."""


class CacheError(UserError):
    """The reference cache does not belong to this run."""


class CheckpointError(UserError):
    """A checkpoint is damaged, missing, or of another run."""


class TrainingError(UserError):
    """A run cannot continue: a figure is not finite, or a gate at the start failed."""


class HalfwayError(TrainingError):
    """A step failed after some of its updates: the weights belong to no step, and must not be saved."""


class WriteError(UserError):
    """A file or a folder cannot be written: the disk is full, read-only, or closed to this user."""


class JudgeError(UserError):
    """A reward or a judge failed, or returned an invalid value."""


def visible(text: str) -> str:
    """Text with control characters, and marks that reverse its direction, as escapes."""
    return _STEERING.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def out_of_memory(error: Exception) -> str:
    """Torch's message of a lack of memory, without its addresses and settings."""
    parts = str(error).splitlines()[0].split(". ") if str(error) else [type(error).__name__]
    return "the device ran out of memory (" + ", ".join(part.strip(" .") for part in parts[:3]) + ")"

"""Errors that a user caused and can mend.

The message is one sentence: subject, what was wanted, what was got, where, what to do. The command line prints it
without a traceback and exits with 2.
"""


class UserError(Exception):
    """Something outside the program is wrong; the message says what to do."""


class ConfigError(UserError):
    """An option is unknown, missing, or has a value that makes no sense."""


class DataError(UserError):
    """A data file is missing, cannot be read, or holds too many faulty rows."""


class ModelError(UserError):
    """A model or tokenizer folder cannot be loaded, or cannot do what is asked of it."""


class CacheError(UserError):
    """The reference cache does not belong to this run."""


class CheckpointError(UserError):
    """A checkpoint is damaged, missing, or of another run."""


class TrainingError(UserError):
    """A run cannot go on: a non-finite loss, or a gate at the start that did not hold."""


class HalfwayError(TrainingError):
    """A step broke off after some of its updates: the weights are those of no step, and must not be saved."""


class JudgeError(UserError):
    """A reward or a judge failed, or answered with what is no reward."""


def out_of_memory(error: Exception) -> str:
    """What torch says of a lack of memory, less the addresses and settings that it goes on with."""
    said = str(error).splitlines()[0].split(". ") if str(error) else [type(error).__name__]
    return "the device ran out of memory (" + ", ".join(part.strip(" .") for part in said[:3]) + ")"

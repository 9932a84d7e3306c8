"""Callbacks of transformers' Trainer: the events that they get, and the ones that are refused by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from preftree.errors import ConfigError
from preftree.trl.configs import TrlArguments

SENT = ("on_init_end", "on_train_begin", "on_step_end", "on_log", "on_evaluate", "on_train_end")
"""Events that callbacks get."""

_REFUSED = {
    "on_epoch_begin": "use on_step_end and state.epoch",
    "on_epoch_end": "use on_step_end and state.epoch",
    "on_step_begin": "use on_step_end",
    "on_substep_end": "a step has no parts that a result depends on",
    "on_pre_optimizer_step": "gradients are not shown",
    "on_optimizer_step": "gradients are not shown",
    "on_save": "checkpoints are written beside the callbacks",
    "on_predict": "there is no predict",
    "on_prediction_step": "an evaluation has no batches that a figure depends on",
    "on_push_begin": "nothing is uploaded",
}


def make_callbacks(given: Sequence[TrainerCallback | type[TrainerCallback]] | None) -> list[TrainerCallback]:
    """The callbacks as objects.

    Raises:
      ConfigError: one waits for an event that is not sent.
    """
    callbacks = [one() if isinstance(one, type) else one for one in given or ()]
    for callback in callbacks:
        if not isinstance(callback, TrainerCallback):
            raise ConfigError(f"a callback must be a transformers.TrainerCallback, got {type(callback).__name__}")
        for event, instead in _REFUSED.items():
            if getattr(type(callback), event) is not getattr(TrainerCallback, event):
                raise ConfigError(
                    f"the callback {type(callback).__name__} waits for {event}, which is not sent: {instead}; "
                    f"{', '.join(SENT)} are"
                )
    return callbacks


class Callbacks:
    """The callbacks of a trainer, called one after the other.

    Attributes:
      callbacks: The callbacks.
      control: The flags that callbacks may set elsewhere; here none of them may change.
    """

    def __init__(self, callbacks: list[TrainerCallback]) -> None:
        """Callbacks from `make_callbacks`."""
        self.callbacks, self.control = callbacks, TrainerControl()

    def send(self, event: str, args: TrlArguments, state: TrainerState, values: Mapping[str, Any]) -> None:
        """Call one event of every callback.

        Raises:
          ConfigError: a callback asks for something by the flags of its control.
        """
        for callback in self.callbacks:
            control = copy.copy(self.control)
            answer = getattr(callback, event)(args, state, control, **values)
            flags = vars(control if answer is None else answer)
            changed = [name for name, value in flags.items() if value != vars(self.control)[name]]
            if changed:
                raise ConfigError(
                    f"the callback {type(callback).__name__} set control.{changed[0]} in {event}, which cannot be "
                    "honoured: a run ends, saves and evaluates at the steps of its arguments; its checkpoints are kept"
                )

"""Kills that fall where they are wanted: the victim stops inside a save and says so.

A save takes as long as the disk does, so a kill at a random moment falls into one often here and seldom there. Here the
victim pauses before one of the calls that write, name or delete, while the folder that it works at has a hidden name.
"""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from preftree.storage import checkpoint

Aim = Literal["staging", "deleted"]

_IN_TURN: tuple[Aim | None, ...] = ("staging", "deleted", "staging", "staging", None)
_CALLS: dict[Aim, int] = {"staging": 14, "deleted": 7}
"""About as many calls as there are in a save of three or four files; the count goes on in the next save."""


@dataclass(frozen=True)
class Pause:
    """Where a victim stops.

    Attributes:
      aim: While a checkpoint is written, or while an old one is deleted.
      call: Before which call, counted from 0.
    """

    aim: Aim
    call: int


def aim_of(kill: int, chance: random.Random) -> Pause | None:
    """Where the victim of a kill stops; None for every fifth, which is killed at any moment."""
    aim = _IN_TURN[kill % len(_IN_TURN)]
    return None if aim is None else Pause(aim, chance.randrange(_CALLS[aim]))


def stop_at(pause: Pause, root: Path, ready: Callable[[], object], announce: int) -> None:
    """In the victim: wrap the calls of a save in `root`, so that one of them is never made.

    Args:
      pause: Which.
      root: The folder of checkpoints.
      ready: Whether calls count already.
      announce: A pipe; one byte says that the victim has stopped.
    """
    left = pause.call

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal left
            if ready() and any(root.glob(f".step-*.{pause.aim}")):
                left -= 1
                if left < 0:
                    os.write(announce, b"!")
                    time.sleep(600)  # it is killed here
            return function(*args, **options)

        return counted

    for owner, name in [
        (checkpoint, "write_tensors"),
        (os, "fsync"),
        (os, "rename"),
        (os, "replace"),
        (os, "unlink"),
        (os, "rmdir"),
    ]:
        setattr(owner, name, wrap(getattr(owner, name)))


def wait_for(announced: int, alive: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait until the victim has stopped; False where it ended, or has not stopped in that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([announced], [], [], 0.05)[0]:
            return bool(os.read(announced, 1))
        if not alive():
            return False
    return False

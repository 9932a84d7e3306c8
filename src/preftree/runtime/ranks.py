"""Ranks: the processes of a run, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from preftree.errors import ConfigError

TIMEOUT = timedelta(hours=24)
"""Longest time that ranks wait while rank 0 tokenises or scores the reference. The loss of a rank is detected at
once; this limit is for a rank that hangs."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run.

    Attributes:
      rank: Number of this process, from 0.
      size: Number of processes.
      device: Device that this process computes on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun describes in RANK, WORLD_SIZE and LOCAL_RANK; one process without them.

    Raises:
      ConfigError: the variables are incomplete, or there are more local processes than CUDA devices.
    """
    size = _number("WORLD_SIZE", 1)
    rank = _number("RANK", 0)
    local = _number("LOCAL_RANK", rank)
    cuda = torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        raise ConfigError(
            f"LOCAL_RANK must be below the {torch.cuda.device_count()} CUDA devices of this machine, got {local}; "
            "start fewer processes"
        )
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield Ranks(0, 1, device)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"WORLD_SIZE is {size} but {', '.join(missing)} is not set; start processes with torchrun")
    backend, bound = ("nccl", device) if cuda else ("gloo", None)
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=TIMEOUT, device_id=bound)
    try:
        yield Ranks(rank, size, device)
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"environment variable {name} must be a whole number, got {text!r}")
    return int(text)

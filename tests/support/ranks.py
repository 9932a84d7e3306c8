"""Real processes on this machine, joined by gloo."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing as mp

from preftree.distributed.world import World, open_world

Work = Callable[[World, Path], None]


def run_ranks(size: int, work: Work, folder: Path) -> None:
    """Run `work` in `size` forked processes at once; an exception in one of them is raised here."""
    mp.start_processes(_enter, (size, _free_port(), work, folder), nprocs=size, start_method="fork")


def _enter(rank: int, size: int, port: int, work: Work, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with open_world() as world:
        work(world, folder)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]

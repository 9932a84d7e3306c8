"""Real processes on this machine, joined by gloo."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing as mp

from preftree.runtime.ranks import Ranks, open_ranks


def run_ranks(size: int, work: Callable[[Ranks, Path], None], folder: Path) -> None:
    """Run `work` in `size` processes that have joined; an exception in one of them is raised here."""
    run_processes(size, lambda rank: _join(work, folder))


def run_processes(size: int, work: Callable[[int], None]) -> None:
    """Run `work(rank)` in `size` forked processes, told of each other as torchrun would tell them."""
    mp.start_processes(_enter, (size, _free_port(), work), nprocs=size, start_method="fork")


def _join(work: Callable[[Ranks, Path], None], folder: Path) -> None:
    with open_ranks() as ranks:
        work(ranks, folder)


def _enter(rank: int, size: int, port: int, work: Callable[[int], None]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    work(rank)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]

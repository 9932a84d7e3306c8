"""Kill a process that saves checkpoints without a pause, again and again, and look at what is left.

    PYTHONPATH=tests python -m support.kill_saves --kills 40

Prints one JSON object: how many kills, how many of them while a checkpoint was half written, and every failure. Most
kills are aimed (aim.py); one counts as mid-save when the dead process left a staging folder behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path

import torch

from preftree.storage.checkpoint import CheckpointState, load_checkpoint, save_checkpoint
from support.aim import aim_of, stop_at, wait_for

MEGABYTE = 1_000_000


def state_at(step: int, megabytes: float) -> CheckpointState:
    """A state that tells its step from any of its numbers."""
    length = int(megabytes * MEGABYTE / 4 / 3)
    ramp = torch.arange(length, dtype=torch.float32)
    return CheckpointState(
        {"model": {"weight": ramp + step}, "optimizer": {"exp_avg": ramp - step, "exp_avg_sq": ramp * step}},
        {"step": step},
    )


def is_state_of(step: int, state: CheckpointState, megabytes: float) -> bool:
    wanted = state_at(step, megabytes)
    return state.meta == wanted.meta and all(
        torch.equal(state.tensors[file][name], tensor)
        for file, tensors in wanted.tensors.items()
        for name, tensor in tensors.items()
    )


def save_for_ever(root: Path, megabytes: float, acknowledge: int, saved: list[int]) -> None:
    """What the victim does: go on from the newest checkpoint, and say after each save that it is safe."""
    loaded = load_checkpoint(root)
    step = 0 if loaded is None else loaded.step
    while True:
        step += 1
        save_checkpoint(root, step, state_at(step, megabytes), keep=2)
        os.write(acknowledge, struct.pack("<q", step))
        saved.append(step)


def alive(child: int) -> bool:
    """Whether it runs; its end stays to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def run(root: Path, *, kills: int, megabytes: float, seed: int) -> dict[str, object]:
    chance = random.Random(seed)
    root.mkdir(parents=True, exist_ok=True)
    mid_save, mid_delete, failures, safe, last = 0, 0, [], 0, 0
    for kill in range(kills):
        reader, writer = os.pipe()
        announced, announce = os.pipe()
        pause = aim_of(kill, chance)
        saved: list[int] = []
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                if pause is not None:
                    stop_at(pause, root, saved.__len__, announce)
                save_for_ever(root, megabytes, writer, saved)
            finally:
                os._exit(1)
        os.close(writer)
        first = os.read(reader, 8)  # it is at work: at least one save is done
        safe = struct.unpack("<q", first)[0] if first else safe
        if pause is None:
            time.sleep(chance.random() * 0.1)
        elif not wait_for(announced, lambda child=child: alive(child)):
            failures.append(f"kill {kill}: the process has not stopped at {pause}")
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(announced)
        os.close(announce)
        while acknowledged := os.read(reader, 8):
            safe = struct.unpack("<q", acknowledged)[0]
        os.close(reader)
        if not os.WIFSIGNALED(status):
            failures.append(f"kill {kill}: the process ended by itself, after step {safe}")
        mid_save += any(root.glob(".step-*.staging"))
        mid_delete += any(root.glob(".step-*.deleted"))
        loaded = load_checkpoint(root)
        last = 0 if loaded is None else loaded.step
        if loaded is None or last < safe:
            failures.append(f"kill {kill}: step {safe} was saved, step {last} is the newest left")
        elif loaded.skipped:
            failures.append(f"kill {kill}: {loaded.skipped[0]}")
        elif not is_state_of(last, loaded.state, megabytes):
            failures.append(f"kill {kill}: step {last} does not hold what was saved")
        if left := [path.name for path in root.iterdir() if path.name.startswith(".")]:
            failures.append(f"kill {kill}: {left} left behind")
    return {
        "kills": kills,
        "mid_save": mid_save,
        "mid_delete": mid_delete,
        "resumed": kills - len(failures),
        "failures": failures,
        "saves": last,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--megabytes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), kills=options.kills, megabytes=options.megabytes, seed=options.seed)
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()

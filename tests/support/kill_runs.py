"""Kill a training run that saves at every step, again and again; then let it finish and compare with a run left alone.

    PYTHONPATH=tests python -m support.kill_runs --kills 40

Prints one JSON object. Most kills are aimed (aim.py); one counts as mid-save when the dead process left a staging
folder behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from preftree.train.dpo import run_dpo
from support.aim import Pause, aim_of, stop_at, wait_for
from support.small_runs import dpo_config, make_model, make_pairs, rows_of


def run(root: Path, *, kills: int, steps: int, seed: int) -> dict[str, object]:
    make_model(root / "model")
    make_pairs(root / "pairs.jsonl")
    chance = random.Random(seed)
    options = [f"max_steps={steps}", "schedule=constant", "keep_checkpoints=2"]
    checkpoints = root / "killed" / "checkpoints"

    def life() -> None:
        run_dpo(dpo_config(root, "killed", *options, "save_every=1"))

    failures: list[str] = []
    mid_save = mid_delete = done = 0
    while done < kills and not failures:
        before, pause = newest(checkpoints), aim_of(done, chance)
        reader, writer = os.pipe()

        def lives_again(before: int = before) -> bool:
            return newest(checkpoints) > before  # it has saved a step of its own

        def victim(
            pause: Pause | None = pause, announce: int = writer, ready: Callable[[], bool] = lives_again
        ) -> None:
            if pause is not None:
                stop_at(pause, checkpoints, ready, announce)
            life()

        child = in_child(victim, root / "stderr.txt")
        if pause is None:
            deadline = time.monotonic() + 60
            while not lives_again() and time.monotonic() < deadline and alive(child):
                time.sleep(0.002)
            time.sleep(chance.random() * 0.05)
        elif not wait_for(reader, lambda child=child: alive(child)):
            failures.append(f"kill {done}: the run has not stopped at {pause}")
        if not alive(child):
            failures.append(f"kill {done}: the run ended by itself: {(root / 'stderr.txt').read_text()[-500:]}")
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
        mid_save += any(checkpoints.glob(".step-*.staging"))
        mid_delete += any(checkpoints.glob(".step-*.deleted"))
        done += 1
    reached = newest(checkpoints)
    if not failures:
        os.waitpid(in_child(life, root / "stderr.txt"), 0)
        run_dpo(dpo_config(root, "straight", *options, "save_every=null"))
        if weights(root / "killed") != weights(root / "straight"):
            failures.append("the weights differ from those of the run that was left alone")
        if rows_of(root / "killed") != rows_of(root / "straight"):
            failures.append("metrics.jsonl differs from that of the run that was left alone")
    return {
        "kills": done,
        "mid_save": mid_save,
        "mid_delete": mid_delete,
        "steps": steps,
        "steps_at_last_kill": reached,
        "failures": failures,
    }


def in_child(work: Callable[[], None], errors: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with errors.open("w") as stream:
                os.dup2(stream.fileno(), 2)
                work()
                code = 0
        except BaseException:
            errors.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return child


def alive(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG) == (0, 0)
    except ChildProcessError:  # reaped by an earlier call
        return False


def newest(checkpoints: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*")), default=0)


def weights(out: Path) -> str:
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), kills=options.kills, steps=options.steps, seed=options.seed)
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()

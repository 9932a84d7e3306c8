"""What one warm step of a small DPO run enters: files, classes, and the calls from the loop to the formula.

    python -m support.one_step FOLDER

A process of its own, since the import hook of the tests puts checks between the calls. Prints JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import preftree
from preftree.train.dpo import run_dpo
from support.small_runs import dpo_config, make_model, make_pairs

SOURCE = str(Path(preftree.__file__).parent)
WARM_STEP = 4
"""The step that is watched: compiled paths, caches and the optimiser's state are there by then."""


class Watch:
    """A profiler that records the calls between the rows of two steps."""

    def __init__(self) -> None:
        self.rows = 0
        self.files: set[str] = set()
        self.classes: set[str] = set()
        self.calls_to_formula: list[str] = []

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.endswith("run_folder/metrics_file.py") and frame.f_code.co_name == "write":
            self.rows += 1
        if self.rows != WARM_STEP - 1 or event not in ("call", "return"):
            return
        ours = file.startswith(SOURCE)
        if event == "return" and ours:
            self._see(value)
        elif event == "call":
            if ours:
                self.files.add(file.removeprefix(f"{SOURCE}/"))
            for name in frame.f_code.co_varnames[: frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount]:
                self._see(frame.f_locals.get(name))
            if ours and frame.f_code.co_name == "dpo" and file.endswith("losses/pair/logistic.py"):
                self.calls_to_formula = self._calls(frame)

    def _see(self, value: Any) -> None:
        kind = type(value)
        if kind.__module__.split(".")[0] == "preftree" and not kind.__name__.startswith("_"):
            self.classes.add(kind.__qualname__)

    def _calls(self, frame: FrameType | None) -> list[str]:
        """Functions of ours from below `train` down to this frame; comprehensions are part of their function."""
        calls: list[str] = []
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(f"{SOURCE}/train/") and code.co_name == "train":
                return calls[::-1]
            if code.co_filename.startswith(SOURCE) and (code.co_name == "<lambda>" or code.co_name[0] != "<"):
                calls.append(f"{code.co_filename.removeprefix(f'{SOURCE}/')}:{code.co_name}")
            frame = frame.f_back
        raise AssertionError("no function `train` above the formula")


def main(folder: Path) -> None:
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl")
    config = dpo_config(folder, "run", f"max_steps={WARM_STEP + 1}", "batch_size=4", "micro_batch_tokens=4096")
    watch = Watch()
    sys.setprofile(watch)
    run_dpo(config)
    sys.setprofile(None)
    print(json.dumps({"files": sorted(watch.files), "classes": sorted(watch.classes), "calls": watch.calls_to_formula}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Verbs on a disk that is too small, or read-only: one sentence, nothing lost, and the same command goes on.

    unshare -rm python -m support.small_disk FOLDER

Mounts a tmpfs on an empty folder, so it needs a file system of its own (`unshare -rm`); prints a JSON object.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import shutil
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import torch

from preftree.cli.main import main as preftree
from preftree.models.write_folder import save_new
from preftree.worlds.sentiment import build_model, build_tokenizer
from support.small_runs import make_model, make_pairs, rows_of

STEPS = 20
"""Sizes of the disk from nothing to what a run takes."""

PAGE = 4096


TALK = "film\n1\n/quit\n"
"""A question to two models, a choice, and the end of the talk."""


def call(*words: object) -> tuple[int, str]:
    """Exit code and stderr of a command; 1 for a traceback, which stderr then holds.

    A talk goes on after an error, which it prints between its turns: here it counts as one of the command.
    """
    said, shown = io.StringIO(), io.StringIO()
    log = logging.getLogger("preftree")
    arguments = mock.patch.object(sys, "argv", ["preftree", *map(str, words)])
    keyboard = mock.patch.object(sys, "stdin", io.StringIO(TALK))
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown), arguments, keyboard:
        try:
            preftree()
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
        except BaseException:
            traceback.print_exc(file=said)
            code = 1
    log.handlers = []
    if words[0] == "chat" and code == 0 and "error: " in shown.getvalue():
        error = shown.getvalue().partition("error: ")[2].partition("\n\n")[0]
        return 2, said.getvalue() + f"error: {' '.join(error.split())}\n"
    return code, said.getvalue()


def resize(disk: Path, size: int | None, *, read_only: bool = False) -> None:
    """Give the mounted disk another size in bytes; None is far more than anything needs."""
    options = f"remount,size={max(PAGE, size) if size is not None else 1 << 28},{'ro' if read_only else 'rw'}"
    subprocess.run(["mount", "-o", options, str(disk)], check=True)


def clear(disk: Path) -> None:
    """Empty the disk."""
    resize(disk, None)
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def weights(run: Path) -> str:
    """Digest of a run's model."""
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def commands(home: Path, disk: Path) -> Mapping[str, list[object]]:
    """Every verb that writes, with its result on the disk; models and data are elsewhere."""
    model, pairs, run = home / "model", home / "pairs.jsonl", home / "whole"
    shared = [f"model={model}", f"data={pairs}", f"cache={disk / 'cache'}", "batch_size=4", "warmup_steps=0"]
    steps = ["max_steps=3", "save_every=1", "snapshots=2", "schedule=constant", "lr=1e-3"]
    judge, few = f"{home / 'length.py'}:longer", ["--max-new-tokens", 4]
    sampled = ["--prompts", home / "prompts.txt", "--judge", judge, *few]
    talkers = [home / "words0", "--against", home / "words1"]
    compared = ["--baseline", run / "model", "--temperatures", "0,1", *sampled]
    online = [word for word in shared if not word.startswith("data=")]
    online += [f"data={home / 'prompts.txt'}", f"reward={judge}", "max_steps=2", "save_every=1", "max_new_tokens=4"]
    online += ["samples_per_prompt=2", "lr=1e-3"]
    return {
        "dpo": ["dpo", *shared, *steps, f"out={disk / 'run'}"],
        "sft": ["sft", *shared, *steps, "side=chosen", f"out={disk / 'sft'}"],
        "reward": ["reward", *shared, *steps[:1], f"out={disk / 'reward'}"],
        "sweep": ["sweep", "dpo", *shared, "max_steps=1", "beta=.1,.5", f"out={disk / 'sweep'}"],
        "ref build": ["ref", "build", *shared, f"out={disk / 'never'}"],
        "generate": ["generate", model, home / "prompts.txt", disk / "drawn.jsonl", "--max-new-tokens", 4],
        "export": ["export", run, disk / "export", "--merged"],
        "report": ["report", run, "-o", disk / "page.html"],
        "convert": ["data", "convert", home / "many.jsonl", disk / "converted.jsonl"],
        "cut": ["data", "cut", home / "texts.jsonl", disk / "cut.jsonl", "--model", model],
        "inspect": ["data", "inspect", pairs, "--model", model, "--html", disk / "inspected.html"],
        "data rank": ["data", "rank", home / "sampled.jsonl", disk / "ranked.jsonl", "--reward", judge],
        "eval rewards": ["eval", "rewards", disk / "whole", "--data", pairs],
        "eval frontier": ["eval", "frontier", disk / "whole", "--reward", judge, "--samples", 1, *few],
        "eval temperature": ["eval", "temperature", model, *compared, "--out", disk / "temperature"],
        "ppo": ["ppo", *online, "critic=shared", f"out={disk / 'ppo'}"],
        "rloo": ["rloo", *online, f"out={disk / 'rloo'}"],
        "chat": ["chat", *talkers, "--record", disk / "chosen.jsonl", "--seed", 1, *few],
        "demo": ["demo", "--fast", "--out", disk / "demo"],
        "winrate": ["eval", "winrate", model, run / "model", *sampled, "--out", disk / "winrate"],
    }


def prepare(home: Path) -> None:
    """Models and data on an ordinary disk, and a finished run."""
    make_model(home / "model")
    make_pairs(home / "pairs.jsonl", 12)
    make_pairs(home / "many.jsonl", 400)
    (home / "prompts.txt").write_text("the plot was\na fine movie\n")
    for seed in (0, 1):  # models of words, whose answers are text
        save_new(build_model(build_tokenizer(), seed), build_tokenizer(), home / f"words{seed}")
    texts = [{"text": f"{number}: the plot was very good and not dull"} for number in range(400)]
    (home / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (home / "length.py").write_text("def longer(prompt, response):\n    return float(len(response))\n")
    words = commands(home, home / "elsewhere")
    code, said = call(*words["dpo"][:-1], f"out={home / 'whole'}")
    assert code == 0, said
    drawn = [{"prompt": f"{number}: plot", "response": text} for number in range(99) for text in (" good", " very bad")]
    (home / "sampled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in drawn))


def furnish(name: str, home: Path, disk: Path) -> int:
    """Empty the disk, but for the finished run that a verb measures, and a page; the bytes that this takes.

    A disk has a page at least, so that what is smaller would always find room.
    """
    clear(disk)
    (disk / "page").write_bytes(bytes(PAGE))
    if "whole" in {Path(str(word)).name for word in commands(home, disk)[name] if str(word).startswith(str(disk))}:
        shutil.copytree(home / "whole", disk / "whole")
    return used(disk)


def used(disk: Path) -> int:
    """Bytes that the files of a folder take on their disk."""
    return sum(path.stat().st_blocks * 512 for path in disk.rglob("*"))


def judge(name: str, code: int, said: str, faults: list[str]) -> None:
    """Note everything but success, or one sentence with exit code 2."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code not in (0, 2) or "Traceback" in said or len(errors) != (code == 2):
        faults.append(f"{name}: exit {code}: {said[-600:]}")


def full(home: Path, disk: Path, faults: list[str]) -> dict[str, int]:
    """A training run on disks of STEPS sizes, and the other verbs on three; each is then given room and goes on."""
    stopped = {"dpo": 0}
    verbs = commands(home, disk)
    clear(disk)
    call(*verbs["dpo"])
    size = used(disk)
    for number in range(STEPS):
        clear(disk)
        resize(disk, size * number // STEPS)
        code, said = call(*verbs["dpo"])
        judge(f"dpo on {number}/{STEPS}", code, said, faults)
        stopped["dpo"] += code == 2
        resize(disk, None)
        code, said = call(*verbs["dpo"])
        if code or weights(disk / "run") != weights(home / "whole") or rows_of(disk / "run") != rows_of(home / "whole"):
            faults.append(f"dpo on {number}/{STEPS} does not go on: exit {code}: {said[-600:]}")
        print(f"{number}/{STEPS}: {stopped}, {len(faults)} faults", file=sys.stderr)
    for name, words in verbs.items():
        if name == "dpo":
            continue
        print(f"{name}: {len(faults)} faults", file=sys.stderr)
        before = furnish(name, home, disk)
        code, said = call(*words)
        judge(f"{name} on an empty disk", code, said, faults)
        if code:
            faults.append(f"{name} fails on an empty disk: {said[-600:]}")
        size = used(disk)
        stopped[name] = 0
        for share in (0, 1 / 3, 2 / 3):
            furnish(name, home, disk)
            resize(disk, before + int((size - before) * share))
            code, said = call(*words)
            judge(f"{name} on {share:.2f}", code, said, faults)
            stopped[name] += code == 2
            resize(disk, None)
            if code == 0:  # a small file had room, and is not replaced
                continue
            code, said = call(*words)
            if code:
                faults.append(f"{name} on {share:.2f} does not go on: exit {code}: {said[-600:]}")
    return stopped


def read_only(home: Path, disk: Path, faults: list[str]) -> int:
    """Every verb on a disk that cannot be written; the number that said so."""
    refused = 0
    for name, words in commands(home, disk).items():
        furnish(name, home, disk)
        resize(disk, None, read_only=True)
        code, said = call(*words)
        judge(f"{name}, read-only", code, said, faults)
        refused += code == 2
        if code == 0:
            faults.append(f"{name}, read-only: it says that it has written")
    return refused


def main() -> None:
    """Try everything in the folder of the command line."""
    home = Path(sys.argv[1])
    disk = home / "disk"
    disk.mkdir()
    torch.set_num_threads(1)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={1 << 28}", "none", str(disk)], check=True)
    faults: list[str] = []
    prepare(home)
    refused = read_only(home, disk, faults)
    stopped = full(home, disk, faults) if "--read-only" not in sys.argv else {}
    json.dump({"stopped": stopped, "read_only": refused, "faults": faults}, sys.stdout)


if __name__ == "__main__":
    main()

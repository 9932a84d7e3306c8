"""Commands of Preftree as these studies run them: shown as they would be typed, and not repeated once done."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from preftree.errors import ConfigError, UserError


def one_sentence(main: Callable[[], None]) -> None:
    """Run a program; a fault that its user can mend is one sentence on stderr and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def preftree(*words: str, log: Path | None = None) -> None:
    """Run one command; a fault or Ctrl-C ends the program as it ends the command, whose folder goes on from there.

    Args:
      words: The command, without `preftree`.
      log: A file for its output; None is the terminal.
    """
    print(f"\n$ preftree {shlex.join(words)}", flush=True)
    command = [sys.executable, "-m", "preftree", *words]
    if log is None:
        code = subprocess.run(command).returncode
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            code = subprocess.run(command, stdout=file, stderr=file).returncode
        if code:
            print("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-12:]), file=sys.stderr)
    if code:
        raise SystemExit(code)


def once(out: Path, *words: str) -> None:
    """Run a command that writes a file in one piece, where the file is not there yet."""
    if not out.exists():
        preftree(*words)


@dataclass(frozen=True, slots=True)
class Chain:
    """Commands that follow one another, and are independent of those of other chains.

    Attributes:
      name: Name to show.
      commands: The commands; each sees by itself what of it is done.
      log: File for their output.
    """

    name: str
    commands: Sequence[Sequence[str]]
    log: Path


def run_all(chains: Sequence[Chain], workers: int) -> None:
    """Run chains, several at a time; the first fault ends the program once those under way have ended."""
    began = time.perf_counter()
    failed = Event()

    def run(chain: Chain) -> None:
        for words in chain.commands:
            if failed.is_set():
                return
            try:
                preftree(*words, log=chain.log)
            except BaseException:
                failed.set()  # before this thread takes another chain
                raise
        print(f"{time.perf_counter() - began:6.0f} s  {chain.name} is done", flush=True)

    os.environ["OMP_NUM_THREADS"] = "1"  # as many processes as cores, and threads that wait for none of them
    pool = ThreadPoolExecutor(workers)
    try:
        for future in [pool.submit(run, chain) for chain in chains]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def claim(out: Path, plan: dict[str, Any]) -> None:
    """Take a folder for one plan, or see that it holds that plan's results, whose finished parts then count as done."""
    out.mkdir(parents=True, exist_ok=True)
    path, wanted = out / "plan.json", json.dumps(plan, indent=1) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != wanted:
        raise ConfigError(f"{out} holds results of another plan (see {path}); give another --out")
    path.write_text(wanted, encoding="utf-8")


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write lines of text, each with an end."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path

"""Calls of the system that fail at any moment of any verb: one sentence, nothing lost, and the same command goes on."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.small_disk import call
from support.small_runs import make_model, make_pairs

CALLS = ("write", "fsync", "rename", "replace", "mkdir", "link", "truncate", "ftruncate")
FAULTS = ((errno.ENOSPC, True), (errno.EIO, False), (errno.EROFS, False))
"""Errors, and whether later calls of the command that need room fail too."""

DEFAULT = 3


class Disk:
    """Counts calls of the system, and lets them fail from the n-th on, or the n-th alone."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls, self.fails_at, self.number, self.lasts = 0, -1, 0, False
        for name in CALLS:
            patch.setattr(os, name, self._wrap(getattr(os, name), name in ("write", "fsync", "mkdir")))

    def _wrap(self, function: Callable[..., Any], needs_room: bool) -> Callable[..., Any]:
        def faulty(*arguments: Any, **options: Any) -> Any:
            at, self.calls = self.calls, self.calls + 1
            if self.fails_at >= 0 and (at == self.fails_at or (self.lasts and needs_room and at > self.fails_at)):
                raise OSError(self.number, os.strerror(self.number))
            return function(*arguments, **options)

        return faulty

    def run(self, words: list[object], fails_at: int = -1, fault: tuple[int, bool] = (0, False)) -> tuple[int, str]:
        """Exit code and stderr of a command, whose `fails_at`-th call fails."""
        self.calls, self.fails_at, (self.number, self.lasts) = 0, fails_at, fault
        try:
            return call(*words)
        finally:
            self.fails_at = -1


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models, data, a finished run, and an earlier result of every verb that replaces its own."""
    folder = tmp_path_factory.mktemp("disk")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 12)
    (folder / "prompts.txt").write_text("the plot was\na fine movie\n")
    (folder / "letters.py").write_text("def letters(prompt, response):\n    return float(sum(map(ord, response)))\n")
    drawn = [{"prompt": p, "response": r} for p in ("the plot was", "a fine movie") for r in (" good", " bad", " dull")]
    (folder / "sampled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in drawn))
    (folder / "sampled1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in drawn[::-1]))
    texts = [{"text": f"{number}: the plot was very good and not dull"} for number in range(20)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    log, handler = logging.getLogger("preftree"), signal.getsignal(signal.SIGTERM)
    before = log.handlers, log.level, log.propagate
    try:
        verbs = commands(folder)
        for words in (verbs["dpo"], verbs["report"]):
            assert call(*["max_steps=1" if word == "max_steps=2" else word for word in words])[0] == 0
        yield folder
    finally:
        log.handlers, log.level, log.propagate = before
        signal.signal(signal.SIGTERM, handler)


def commands(home: Path) -> dict[str, list[object]]:
    """The verbs that write, each with what it writes in `home`."""
    model, pairs, judge = home / "model", home / "pairs.jsonl", f"{home / 'letters.py'}:letters"
    steps = ["batch_size=4", "warmup_steps=0", "schedule=constant", "save_every=1", "lr=1e-3", "eval_data=.2"]
    return {
        "dpo": ["dpo", f"model={model}", f"data={pairs}", f"cache={home / 'cache'}", *steps, "max_steps=2"]
        + [f"out={home / 'run'}"],
        "report": ["report", home / "run", "-o", home / "page.html"],
        "convert": ["data", "convert", pairs, home / "converted.jsonl"],
        "cut": ["data", "cut", home / "texts.jsonl", home / "cut.jsonl", "--model", model],
        "inspect": ["data", "inspect", pairs, "--model", model, "--html", home / "inspected.html"],
        "rank": ["data", "rank", home / "sampled.jsonl", home / "ranked.jsonl", "--reward", judge],
        "generate": ["generate", model, home / "prompts.txt", home / "drawn.jsonl", "--max-new-tokens", 4],
        "export": ["export", home / "run", home / "export", "--merged"],
        "rewards": ["eval", "rewards", home / "run", "--data", pairs],
        "winrate": ["eval", "winrate", home / "sampled.jsonl", home / "sampled1.jsonl", "--judge", judge]
        + ["--prompts", home / "prompts.txt", "--out", home / "winrate"],
    }


def contents(home: Path) -> dict[str, bytes]:
    """The files of a folder but for hidden ones, and without what time and chance write."""
    names = [path for path in sorted(home.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in names
        if not any(part.startswith(".") for part in path.relative_to(home).parts)
    }


TIMED = (
    "tensorboard",
    "measured",
    "summary",
    "metrics.jsonl",
    "report.html",
    "checkpoints",
    "README",
    "MANIFEST",
    "cache",
)
"""Parts of names of files that hold times, or digests of such files, or numbers of this try."""


def lasting(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if not any(part in name for part in TIMED)}


def check(verb: str, home: Path, patch: pytest.MonkeyPatch, most: int) -> None:
    aside = home.with_name(f"{home.name}-aside")
    words, disk, faults = commands(home)[verb], Disk(patch), []
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(home, aside)

    def again() -> None:
        shutil.rmtree(home)
        shutil.copytree(aside, home)

    try:
        before = contents(home)
        code, said = disk.run(words)
        assert code == 0, said
        number, wanted = disk.calls, contents(home)
        assert number > 0
        stopped = 0
        for turn, at in enumerate(sorted({round(part * (number - 1) / (most - 1)) for part in range(most)})):
            again()
            code, said = disk.run(words, at, FAULTS[turn % len(FAULTS)])
            where = f"{verb}, call {at} of {number}, {FAULTS[turn % len(FAULTS)]}"
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            if code not in (0, 2) or "Traceback" in said or len(errors) != (code == 2):
                faults.append(f"{where}: exit {code}: {said[-500:]}")
            stopped += code == 2
            after = contents(home)
            lost = [
                name
                for name, content in lasting(before).items()
                if after.get(name) not in (content, wanted.get(name, content))
            ]
            if lost:
                faults.append(f"{where}: {lost} are not what they were")
            if code:
                code, said = disk.run(words)
            if code or lasting(contents(home)) != lasting(wanted):
                different = {name for name, content in lasting(wanted).items() if contents(home).get(name) != content}
                faults.append(f"{where}: does not go on: exit {code}: {different} {said[-500:]}")
        assert faults == []
        assert stopped > 0
    finally:
        again()
        shutil.rmtree(aside)


VERBS = sorted(commands(Path("home")))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("dpo", "rewards")])
def test_a_call_that_fails_is_one_sentence(verb: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(verb, home, monkeypatch, DEFAULT)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_any_call_that_fails_is_one_sentence(verb: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(verb, home, monkeypatch, 40)

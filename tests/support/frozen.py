"""A frozen commit beside the working tree: small runs of both, compared number by number.

    PYTHONPATH=tests python -m support.frozen [--only NAME ...] [--src DIR] [--base DIR] [--strict]

Says for each case `equal`, or the first differences; exits with 1 where anything differs. It is here while the code is
rebuilt, and goes afterwards: bits are compared on one machine at one time, nothing is stored for another.

Inputs are made once, by the frozen code. Each side runs through the command line, in a folder of its own and with the
same relative paths, one case in one process with one thread and a cache of its own. What the frozen side wrote is kept
and taken again while the cases, the versions and the kind of CPU are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMIT = "4850f90"
REPOSITORY = Path(__file__).resolve().parents[2]
AT_ONCE = 2
SHOWN = 6

MAKE_INPUTS = """
import json, sys
from pathlib import Path
import numpy as np, torch
from support.small_runs import WORDS, make_model, make_pairs
from preftree.worlds.sentiment import build_model, build_tokenizer

folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
def text(most): return " " + " ".join(rng.choice(WORDS, int(rng.integers(1, most))))
def write(name, rows): (folder / name).write_text("".join(json.dumps(row) + "\\n" for row in rows))
make_model(folder / "model")
make_model(folder / "other", seed=1)
make_pairs(folder / "pairs.jsonl", 60)
write("demos.jsonl", [{"prompt": f"{i}:{text(5)} ->", "completion": text(8)} for i in range(60)])
labels = [{"prompt": f"{i // 2}:{text(5)} ->", "completion": text(8), "label": bool(i % 3)} for i in range(60)]
write("labels.jsonl", labels)
lists = [{"prompt": f"{i}:{text(5)} ->", "responses": [f"{text(6)} {j}" for j in range(3)]} for i in range(40)]
write("rankings.jsonl", lists)
write("prompts.jsonl", [{"prompt": f"{i}:{text(5)} ->"} for i in range(12)])
tokenizer = build_tokenizer()
build_model(tokenizer, 0, 32).save_pretrained(folder / "world")
tokenizer.save_pretrained(folder / "world")
write("words.jsonl", [{"prompt": prompt} for prompt in ("the movie was", "the plot was very", "the movie was not")])
(folder / "vowels.py").write_text(
    "def vowels(prompt, response):\\n    return sum(letter in 'aeiou' for letter in response) / 4\\n"
)
"""

COMMON = (
    "cache=cache batch_size=4 micro_batch_tokens=256 max_steps=20 save_every=10 lr=1e-3 warmup_steps=2 threads=1 "
    "precision=fp32 seed=3"
)
PAIRS = f"model={{inputs}}/model data={{inputs}}/pairs.jsonl {COMMON}"
HELD_OUT = "eval_data=.2 eval_every=10"
ONLINE = f"{COMMON} samples_per_prompt=2 minibatch_size=2 max_new_tokens=6"

CASES: dict[str, str] = {
    "sft": f"sft {PAIRS} side=chosen {HELD_OUT}",
    "sft_demonstrations": f"sft model={{inputs}}/model data={{inputs}}/demos.jsonl {COMMON} optimizer=adamw",
    "dpo": f"dpo {PAIRS} {HELD_OUT} snapshots=2",
    "dpo_budget": f"dpo {PAIRS} micro_batch_tokens=96 gradient_checkpointing=.5 data.order=example",
    "dpo_other": f"dpo {PAIRS} reference={{inputs}}/other",
    "dpo_lora": f"dpo {PAIRS} {HELD_OUT} lora.r=4",
    "kto_pair": f"dpo {PAIRS} {HELD_OUT} loss=kto_pair micro_batch_tokens=96",
    "aot": f"dpo {PAIRS} loss=aot",
    "beta_dpo": f"dpo {PAIRS} {HELD_OUT} loss=beta_dpo",
    "sum": f"dpo {PAIRS} {HELD_OUT} loss='{{{{dpo: 1.0, sft: .2}}}}'",
    "orpo": f"dpo {PAIRS} loss=orpo reference=none",
    "tdpo2": f"dpo {PAIRS} {HELD_OUT} loss=tdpo2",
    "tdpo2_lora": f"dpo {PAIRS} loss=tdpo2 lora.r=4",
    "moving": f"dpo {PAIRS} {HELD_OUT} reference='{{{{from: start, sync_every: 5}}}}'",
    "kto": f"dpo model={{inputs}}/model data={{inputs}}/labels.jsonl {COMMON} {HELD_OUT} loss=kto",
    "plackett_luce": f"dpo model={{inputs}}/model data={{inputs}}/rankings.jsonl {COMMON} {HELD_OUT} "
    "loss=plackett_luce",
    "reward": f"reward {PAIRS} {HELD_OUT}",
    "ppo": f"ppo model={{inputs}}/world data={{inputs}}/words.jsonl eval_data={{inputs}}/words.jsonl eval_every=10 "
    f"{ONLINE} reward=world:tiny critic=separate",
    "ppo_shared_lora": f"ppo model={{inputs}}/model data={{inputs}}/prompts.jsonl {ONLINE} "
    "reward={inputs}/vowels.py:vowels critic=shared lora.r=4",
    "rloo": f"rloo model={{inputs}}/model data={{inputs}}/prompts.jsonl {ONLINE} reward={{inputs}}/vowels.py:vowels",
}
"""Words of the command line; `{inputs}` is the folder of the inputs, and `out=run` is added."""

RESUMED = ("dpo", "beta_dpo", "moving", "kto", "ppo", "reward")
"""Stopped in the middle by the frozen code; each goes on on the other side and ends as the frozen straight run did."""

TABLE = f"ref build {PAIRS}"

TIMES = {"seconds", "training_seconds", "peak_memory_bytes", "created", "mtime"}
LOOSE = {"config", "preftree", "environment"}
"""Keys that hold options and versions, which --strict compares."""


@dataclass(frozen=True)
class Side:
    """A source tree, and the folder that its runs are in."""

    name: str
    src: Path
    folder: Path

    def run(self, folder: Path, words: str, inputs: Path) -> str:
        """Run one command in `folder`; returns what it said. Of an option that is given twice the last counts."""
        if self.name == "new":
            words += f" {os.environ.get('FROZEN_SPOILED', '')}"  # options that let the comparison be seen to fail
        given = [word.format(inputs=inputs) for word in shlex.split(words)]
        last = {word.partition("=")[0]: word for word in given}
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "preftree", *last.values()],
            cwd=folder,
            env=_environment(self.src),
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            end = "\n    ".join((done.stdout + done.stderr).splitlines()[-12:])
            raise Failed(f"{self.name} ended with {done.returncode}: preftree {shlex.join(last.values())}\n    {end}")
        return done.stdout + done.stderr


class Failed(Exception):
    """A command did not end well."""


def _environment(*paths: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def check_source(src: Path) -> None:
    """Raise Failed where the package would come from elsewhere."""
    code = "import preftree; print(preftree.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", code], env=_environment(src), text=True, capture_output=True, check=True, cwd="/"
    ).stdout.strip()
    if not Path(said).resolve().is_relative_to(src.resolve()):
        raise Failed(f"preftree is imported from {said}, not from {src}")


def frozen_tree(given: Path | None, kept: Path) -> Path:
    """A checkout of COMMIT: the one that is given, or a git worktree made in `kept`."""
    tree = given or kept / COMMIT
    if not (tree / "src" / "preftree").is_dir():
        kept.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "worktree", "prune"], cwd=REPOSITORY, check=True)
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), COMMIT], cwd=REPOSITORY, check=True)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, text=True, capture_output=True, check=False)
    if git.returncode:
        raise Failed(f"{tree} is no git worktree ({git.stderr.strip()}); leave --base out to have one made")
    head = git.stdout
    changed = subprocess.run(
        ["git", "status", "--porcelain", "src", "tests"], cwd=tree, text=True, capture_output=True, check=True
    ).stdout
    if not head.startswith(COMMIT) or changed:
        raise Failed(f"{tree} is not commit {COMMIT} as it was ({head.strip()}{', changed' if changed else ''})")
    return tree


def once(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder's content, unless it is whole already."""
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    (folder / "done").touch()


def identity() -> str:
    """Digest of all that decides what the frozen side writes, but its code."""
    import safetensors
    import torch
    import transformers

    what = [COMMIT, MAKE_INPUTS, CASES, RESUMED, TABLE, sys.version, torch.__version__, transformers.__version__]
    what += [safetensors.__version__, torch.backends.cpu.get_cpu_capability()]
    what += sorted(
        f"{key}={value}" for key, value in os.environ.items() if key.startswith(("ATEN_", "ONEDNN_", "MKL_"))
    )
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


# One case.


def straight(side: Side, name: str, inputs: Path) -> Path:
    """Run a case from its start to its end."""
    folder = side.folder / name
    once(folder, lambda folder: _ran(side, folder, CASES[name] + " out=run", inputs))
    return folder


def halfway(side: Side, name: str, inputs: Path) -> Path:
    """Run a case to its middle, where a checkpoint lies."""
    folder = side.folder / f"{name}.half"
    words = f"{CASES[name]} out=run schedule=constant".replace("max_steps=20", "max_steps=10")
    once(folder, lambda folder: _ran(side, folder, words, inputs))
    return folder


def _ran(side: Side, folder: Path, words: str, inputs: Path) -> None:
    (folder / "said.txt").write_text(side.run(folder, words, inputs))


def case_straight(base: Side, new: Side, name: str, inputs: Path, strict: bool) -> list[str]:
    """Differences between a straight run of both sides."""
    return compare_runs(straight(base, name, inputs) / "run", straight(new, name, inputs) / "run", strict)


def case_resumed(base: Side, new: Side, name: str, inputs: Path, strict: bool) -> list[str]:
    """Differences between the frozen straight run, and its first half that the new side went on with."""
    straight_words = f"{CASES[name]} out=run schedule=constant"
    whole = base.folder / f"{name}.whole"
    once(whole, lambda folder: _ran(base, folder, straight_words, inputs))
    half, folder = halfway(base, name, inputs), new.folder / f"{name}.resumed"
    shutil.copytree(half, folder)
    said = new.run(folder, straight_words, inputs)
    first = (half / "run" / "metrics.jsonl").read_text().splitlines()[0]
    # The row with its times: a run that started over would have measured others.
    kept = (folder / "run" / "metrics.jsonl").read_text().startswith(first)
    wrong = [] if kept else [f"it did not go on from the checkpoint: {said.splitlines()[-8:]}"]
    return wrong + compare_runs(whole / "run", folder / "run", strict)


def case_table(base: Side, new: Side, inputs: Path) -> tuple[list[str], str]:
    """Differences after the new side was given the frozen side's cache; and what it said of the reference."""
    built = base.folder / "table"
    once(built, lambda folder: _ran(base, folder, TABLE + " out=run", inputs))
    folder = new.folder / "table"
    shutil.copytree(built, folder)
    said = new.run(folder, TABLE + " out=run", inputs)
    lines = [line for line in said.splitlines() if "reference" in line]
    if not lines:
        return [f"nothing was said of the reference: {said[-300:]!r}"], ""
    read = any("0 responses scored" in line and " 0 known" not in line for line in lines)
    return [], f"{'read' if read else 'COMPUTED AGAIN'}: {' | '.join(lines)}"


# Comparison.


def compare_runs(base: Path, new: Path, strict: bool) -> list[str]:
    """The differences of two folders of runs, a line each; notes that do not count begin with `(`."""
    ours, theirs = _files(base), _files(new)
    lines = [f"{name}: missing" for name in sorted(ours - theirs)]
    lines += [f"({name}: only the new side has it)" for name in sorted(theirs - ours)]
    for name in sorted(ours & theirs):
        for line in _compare_files(base / name, new / name, strict):
            lines.append(f"({name}: {line[1:]}" if line.startswith("(") else f"{name}: {line}")
    return lines


def _files(folder: Path) -> set[str]:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("tensorboard/") and not name.endswith((".lock", ".html"))}


def _compare_files(a: Path, b: Path, strict: bool) -> Iterator[str]:
    if a.name == "MANIFEST.json":
        yield from differences(_listed(a), _listed(b))
    elif a.suffix == ".safetensors":
        yield from _compare_tensors(a, b, strict)
    elif a.suffix == ".jsonl":
        yield from differences(_rows(a), _rows(b))
    elif a.suffix == ".json" and a.name not in ("tokenizer.json",):
        yield from differences(plain(json.loads(a.read_bytes()), strict), plain(json.loads(b.read_bytes()), strict))
    elif a.suffix in (".yaml", ".md"):
        if strict and a.read_bytes() != b.read_bytes():
            yield "differs"
    elif a.read_bytes() != b.read_bytes():
        yield "bytes differ"


def _listed(path: Path) -> list[str]:
    """Names of the files of a manifest; the sum of a file with times in it cannot be the same."""
    content = json.loads(path.read_bytes())
    return sorted(content.get("files", content))


def _rows(path: Path) -> list[Any]:
    return [plain(json.loads(line), False) for line in path.read_text().splitlines()]


def plain(value: Any, strict: bool) -> Any:
    """JSON without times, places in memory, and, unless `strict`, options and versions."""
    if isinstance(value, Mapping):
        return {
            key: plain(inner, strict)
            for key, inner in value.items()
            if key not in TIMES
            and not key.startswith("seconds")
            and not key.endswith("_per_second")
            and (strict or key not in LOOSE)
        }
    return [plain(inner, strict) for inner in value] if isinstance(value, list) else value


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Where two JSON values differ; numbers must be the same to the last bit."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in a:
            if key not in b:
                yield f"{where}.{key} is missing"
            else:
                yield from differences(a[key], b[key], f"{where}.{key}")
        for key in b:
            if key not in a:
                yield f"{where}.{key} is new: {b[key]!r:.80}"
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            yield f"{where} has {len(b)} entries, had {len(a)}"
        for index, (left, right) in enumerate(zip(a, b, strict=False)):
            yield from differences(left, right, f"{where}[{index}]")
    elif type(a) is not type(b) or a != b:
        yield f"{where} is {b!r:.80}, was {a!r:.80}"


def _compare_tensors(a: Path, b: Path, strict: bool) -> Iterator[str]:
    if a.read_bytes() == b.read_bytes():
        return
    import torch
    from safetensors.torch import load_file

    before, after = load_file(a), load_file(b)
    equal = before.keys() == after.keys()
    if not equal:
        yield f"tensors {sorted(before.keys() ^ after.keys())[:4]} are on one side only"
    for name in sorted(before.keys() & after.keys()):
        left, right = before[name], after[name]
        if left.dtype != right.dtype or left.shape != right.shape:
            yield f"{name} is {right.dtype}{list(right.shape)}, was {left.dtype}{list(left.shape)}"
        elif not torch.equal(
            left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8)
        ):
            yield f"{name} differs by up to {(left.double() - right.double()).abs().max():.3g}"
        else:
            continue
        equal = False
    if equal:
        yield "the header differs, no tensor does" if strict else "(the header differs, no tensor does)"


# All cases.


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}, NAME.resumed, table")
    parser.add_argument("--src", type=Path, default=REPOSITORY / "src", help="the other side's src")
    parser.add_argument("--base", type=Path, help=f"a checkout of {COMMIT}")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "preftree-frozen")
    parser.add_argument("--strict", action="store_true", help="compare options, cards and versions as well")
    given = parser.parse_args()
    start = time.monotonic()

    try:
        tree = frozen_tree(given.base, given.kept)
    except Failed as error:
        parser.error(str(error))
    kept = given.kept / identity()
    base = Side("base", tree / "src", kept / "base")
    for old in kept.glob("new-*"):  # of earlier calls that found differences
        if time.time() - old.stat().st_mtime > 3600:
            shutil.rmtree(old, ignore_errors=True)
    # A folder of this process, so that two working trees can be compared at once.
    new = Side("new", given.src.resolve(), Path(tempfile.mkdtemp(prefix="new-", dir=_made(kept))))
    inputs = kept / "inputs"
    for side in (base, new):
        check_source(side.src)

    def make_inputs(folder: Path) -> None:
        words: Sequence[str] = (sys.executable, "-c", MAKE_INPUTS, str(folder))
        subprocess.run(words, env=_environment(base.src, tree / "tests"), check=True, capture_output=True)

    once(inputs, make_inputs)

    names = [*CASES, *(f"{name}.resumed" for name in RESUMED), "table"]
    if unknown := set(given.only or ()) - set(names):
        parser.error(f"no case is named {', '.join(sorted(unknown))}")

    def case(name: str) -> tuple[list[str], str]:
        try:
            if name == "table":
                return case_table(base, new, inputs)
            if name.endswith(".resumed"):
                return case_resumed(base, new, name.removesuffix(".resumed"), inputs, given.strict), ""
            return case_straight(base, new, name, inputs, given.strict), ""
        except Failed as error:
            return [str(error)], ""

    failed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        chosen = [name for name in names if not given.only or name in given.only]
        for name, (lines, more) in zip(chosen, pool.map(case, chosen), strict=True):
            wrong = [line for line in lines if not line.startswith("(")]
            notes = sorted({line for line in lines if line.startswith("(")})
            failed += bool(wrong)
            print(f"{name:20} {f'{len(wrong)} DIFFERENCES' if wrong else 'equal'}  {more}".rstrip(), flush=True)
            for line in (*wrong[:SHOWN], *notes[:2]):
                print(f"    {line}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} equal, {time.monotonic() - start:.0f} s")
    if failed:
        print(f"the runs are in {kept}")
    else:
        shutil.rmtree(new.folder)
    return int(failed > 0)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())

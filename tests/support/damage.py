"""Damages to every kind of file that Preftree leaves, and whether the next verb that takes the file says so.

    PYTHONPATH=tests python -m support.damage --number 500 --seed 0

A damage is `found` where the verb that takes the file stops with one sentence or names the file in its log, `made good`
where nothing is said and every result is that of the whole file (a cache is computed again, a file is not read), and
`silent` where a result differs and nothing is said. A traceback is a fault of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from preftree.config.load import load_config
from preftree.config.reward import RewardConfig
from preftree.data.prompts import encode_prompts, read_prompts
from preftree.errors import UserError
from preftree.evaluate.answers import Side, read_answers
from preftree.evaluate.export import export_run
from preftree.evaluate.in_memory.after_training import run_recipe
from preftree.generate.hf import load_sampler
from preftree.generate.job import describe_job, sample_file
from preftree.generate.protocol import Sampling
from preftree.judges.reward_model import RewardModel
from preftree.models.load import load_model, load_tokenizer
from preftree.report.page import run_page
from preftree.run_folder.reader import read_run
from preftree.run_folder.summary_file import verify_model
from preftree.storage.checkpoint import load_checkpoint
from preftree.storage.manifest import MANIFEST, write_manifest
from support.small_runs import dpo_config, make_model, make_pairs

KINDS = ("flip", "cut", "zero", "swap", "swap, manifest edited", "missing", "foreign")
CLOCK = ("seconds", "pairs_per_second")


@dataclass(frozen=True)
class Place:
    """Folders of a run, its caches, a generation and an export, and the same of another model and other data."""

    root: Path

    def config(self, name: str, *words: str):
        """Options of a run of three steps that keeps two checkpoints and snapshots."""
        own = ("max_steps=3", "save_every=1", "keep_checkpoints=2", "snapshots=2", "schedule=constant", "eval_data=.2")
        given = {word.partition("=")[0] for word in words}
        return dpo_config(self.root, name, *(word for word in own if word.partition("=")[0] not in given), *words)


def prepare(root: Path) -> Place:
    """Make the folders: `run` and its twin `other`, of another model and other pairs."""
    place = Place(root)
    make_model(root / "model")
    make_model(root / "model2", seed=1)
    make_pairs(root / "pairs.jsonl", 12)
    make_pairs(root / "pairs2.jsonl", 12, seed=1)
    (root / "prompts.txt").write_text("the plot was\na fine movie\n")
    others = (f"model={root / 'model2'}", f"data={root / 'pairs2.jsonl'}", f"cache={root / 'cache2'}", "seed=1")
    with mock.patch("preftree.reference.key._FRESH_NS", -1):  # digests of new files are cached, too
        run_recipe(place.config("run"))
        run_recipe(place.config("other", *others))
    adapted = ("lora.r=2", "max_steps=2")
    run_recipe(place.config("lora-run", *adapted))
    run_recipe(place.config("lora-other", *adapted, *others))
    for name, more in (("rewards-run", ()), ("rewards-other", others)):
        words = (f"model={root / 'model'}", f"data={root / 'pairs.jsonl'}", f"cache={root / 'cache'}", *more)
        given = {word.partition("=")[0]: word for word in (*words, f"out={root / name}", "max_steps=1")}
        run_recipe(load_config(RewardConfig, list(given.values())))
    for name in ("run", "other"):
        draw(place, name)
        export_run(root / name, root / f"{name}-export", "merged")
        export_run(root / f"lora-{name}", root / f"lora-{name}-export", "adapter")
    return place


def draw(place: Place, name: str) -> int:
    """Draw, or go on with, the responses of a run's model."""
    model = place.root / name / "model"
    tokenizer = load_tokenizer(model)
    prompts = read_prompts(str(place.root / "prompts.txt"))
    sampler, weights = load_sampler(str(model), tokenizer, precision="fp32", batch_size=4)
    ids, sampling = encode_prompts(tokenizer, prompts), Sampling(4)
    job = describe_job(weights, "fp32", ids, sampling, 1)
    out = place.root / f"{name}-responses.jsonl"
    return sample_file(sampler, prompts, ids, out, sampling, job, samples=1, batch_size=4)


def resume(place: Place) -> object:
    """Take the run to its fourth step from its newest intact checkpoint; weights and rows without the clock."""
    run_recipe(place.config("run", "max_steps=4"))
    return digest(place.root / "run" / "model" / "model.safetensors"), figures(place.root / "run")


def start_again(place: Place) -> object:
    """A fresh run on the caches."""
    shutil.rmtree(place.root / "fresh", ignore_errors=True)
    run_recipe(place.config("fresh", "max_steps=1"))
    return digest(place.root / "fresh" / "model" / "model.safetensors"), figures(place.root / "fresh")


def report(place: Place) -> object:
    """The page of the finished run, with its model compared."""
    verify_model(place.root / "run" / "model", card=True)
    return run_page([read_run(place.root / "run")])


def use_model(folder: Path) -> object:
    """A model as a verb or the next run takes it."""
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokenizer("the plot was")["input_ids"]])).logits
    return hashlib.sha256(logits.numpy().tobytes()).hexdigest(), model.generation_config.to_json_string()  # pyright: ignore[reportOptionalMemberAccess]


def use_rewards(place: Place) -> object:
    """A reward model as a judge."""
    model = RewardModel(place.root / "rewards-run" / "model")
    return model(["the plot was", "a fine movie"], [" good", " bad and dull"]).tolist()


def take_responses(place: Place) -> object:
    """The responses as a comparison takes them, and as the job goes on with them."""
    prompts = read_prompts(str(place.root / "prompts.txt"))
    out = place.root / "run-responses.jsonl"
    texts = read_answers(Side("a", "file", str(out)), prompts).texts
    draw(place, "run")
    return texts, out.read_bytes()


def take_snapshots(place: Place) -> object:
    """The snapshots as a measurement takes them."""
    folders = sorted((place.root / "run" / "snapshots").glob("step-*"))
    loaded = [load_checkpoint(path.parent, path) for path in folders]
    return [(one.step, digest_tensors(one.state.tensors)) for one in loaded if one is not None]


@dataclass(frozen=True)
class Target:
    """Files of one kind, and the verb that takes them.

    Attributes:
      name: Name in the counts.
      files: The files, relative to the root.
      twin: Folder name -> that of the other run's, for a swap.
      take: The verb; returns what must be as before.
      readers: Whether anything reads the file.
    """

    name: str
    files: list[str]
    twin: Callable[[str], str]
    take: Callable[[Place], object]


def targets(place: Place) -> list[Target]:
    """Every file below the root, by the verb that takes it."""
    root = place.root

    def below(pattern: str) -> list[str]:
        return sorted(str(path.relative_to(root)) for path in root.glob(pattern) if path.is_file())

    newest = max((root / "run" / "checkpoints").glob("step-*")).name
    before = min((root / "run" / "checkpoints").glob("step-*")).name

    def older(file: str) -> str:
        return file.replace(newest, before)

    def first(file: str) -> str:
        return file.replace("step-000002", "step-000001")

    ended = [f"run/{name}" for name in ("metrics.jsonl", "config.yaml", "summary.json", "measured.json")]
    saved, cached = below(f"run/checkpoints/{newest}/*"), _cache(root)
    parts = [file for name in ("part-*/*", "key.json", "filled-*.json") for file in below(f"cache/tables/*/{name}")]
    stores = below("cache/tokens/*/*")
    return [
        Target("checkpoint, another step", saved, older, resume),
        Target("checkpoint, another run", saved, _other, resume),
        Target("metrics.jsonl, resumed", ended[:1], _other, resume),
        Target("run", ended, _other, report),
        Target("model", below("run/model/*"), _other, lambda place: use_model(place.root / "run" / "model")),
        Target("export", below("run-export/*"), _other_export, lambda place: use_model(place.root / "run-export")),
        Target("adapter", below("lora-run/model/*"), _twin_run, lambda place: use_model(place.root / "lora-run/model")),
        Target(
            "export of an adapter",
            below("lora-run-export/*"),
            _twin_run,
            lambda place: use_model(place.root / "lora-run-export"),
        ),
        Target("reward model", below("rewards-run/model/*"), _twin_run, use_rewards),
        Target("generation", below("run-responses.jsonl*"), _other_responses, take_responses),
        Target("reference cache", parts, cached, start_again),
        Target("token store", [*stores, "cache/tokens/files.json"], cached, start_again),
        Target("digests of weights", below("cache/weights/*"), cached, start_again),
        Target("snapshots", below("run/snapshots/step-000002/*"), first, take_snapshots),
    ]


def _other_responses(file: str) -> str:
    return file.replace("run-", "other-", 1)


def _other(file: str) -> str:
    return file.replace("run/", "other/", 1)


def _twin_run(file: str) -> str:
    return file.replace("-run", "-other", 1)


def _other_export(file: str) -> str:
    return file.replace("run-export", "other-export", 1)


def _cache(root: Path) -> Callable[[str], str]:
    """The file of the same name in the other cache, whichever its folders are called."""

    def twin(file: str) -> str:
        name, kind = Path(file).name, file.split("/")[1]
        found = sorted((root / "cache2" / kind).rglob(name)) or sorted((root / "cache2" / kind).rglob("*.json"))
        return str(found[0].relative_to(root)) if found else file

    return twin


def damage(place: Place, file: str, kind: str, twin: str, chance: random.Random) -> bool:
    """Harm a file; False where this harm changes nothing."""
    path, before = place.root / file, (place.root / file).read_bytes()
    if kind == "missing":
        path.unlink()
        return True
    if kind == "foreign":
        path.write_bytes(b"PK\x03\x04" + bytes(chance.randrange(256) for _ in range(200)))
        return True
    if kind == "flip":
        at = chance.randrange(len(before))
        after = before[:at] + bytes([before[at] ^ (1 << chance.randrange(8))]) + before[at + 1 :]
    elif kind == "cut":
        after = before[: chance.randrange(len(before))]
    elif kind == "zero":
        after = bytes(len(before))
    else:
        after = (place.root / twin).read_bytes()
    path.write_bytes(after)
    if kind == "swap, manifest edited":
        if path.name == MANIFEST or not (path.parent / MANIFEST).exists():
            return False
        write_manifest(path.parent)
    return after != before


def trial(place: Place, target: Target, file: str, kind: str, chance: random.Random, wanted: object) -> str:
    """Damage, take, compare: `found`, `made good`, `silent`, a traceback, or `nothing` where nothing changed."""
    backup = place.root.with_name(place.root.name + "-backup")
    shutil.copytree(place.root, backup)
    try:
        if not damage(place, file, kind, target.twin(file), chance):
            return "nothing"
        with listening() as said:
            try:
                result = target.take(place)
            except UserError as error:
                return "found" if "\n" not in str(error) else "more than one line"
            except Exception as error:
                return f"traceback {type(error).__name__}: {error}"
        if isinstance(result, str) and Path(file).name in result and Path(file).name not in str(wanted):
            return "found"  # a page names it
        if any(Path(file).name in line or str(Path(file).parent.name) in line for line in said):
            return "found"
        return "made good" if result == wanted else "silent"
    finally:
        shutil.rmtree(place.root)
        backup.rename(place.root)


@contextmanager
def listening() -> Iterator[list[str]]:
    """The warnings of Preftree's log, and what it says of rows that were tokenised again."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING or "tokenised again" in record.getMessage():
                said.append(record.getMessage())

    log, listener = logging.getLogger("preftree"), Listener()
    level = log.level
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    try:
        yield said
    finally:
        log.removeHandler(listener)
        log.setLevel(level)


def figures(run: Path) -> list[dict[str, object]]:
    """The rows of metrics.jsonl without those that measure time."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_tensors(tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> str:
    """SHA-256 of named tensors."""
    plain = {name: {key: value.tolist() for key, value in group.items()} for name, group in tensors.items()}
    return hashlib.sha256(repr(plain).encode()).hexdigest()


@dataclass(frozen=True)
class Trial:
    """One damage: the kind of file, the file, the kind of damage, and what came of it."""

    target: str
    file: str
    kind: str
    outcome: str

    @property
    def word(self) -> str:
        """The outcome without what it says."""
        return "traceback" if self.outcome.startswith("traceback") else self.outcome

    @property
    def wrong(self) -> bool:
        """Whether the damage was silent, ended in a traceback, or in more than a sentence."""
        return self.outcome not in ("found", "made good")


def run_trials(root: Path, number: int, seed: int) -> list[Trial]:
    """Damages in turn over the kinds of file and of damage."""
    warnings.simplefilter("ignore")
    place, chance = prepare(root), random.Random(seed)
    trials: list[Trial] = []
    kinds = targets(place)
    wanted: dict[str, object] = {}
    backup = root.with_name(root.name + "-whole")
    for target in kinds:
        shutil.copytree(root, backup)
        wanted[target.name] = target.take(place)
        shutil.rmtree(root)
        backup.rename(root)
    tried = 0
    while len(trials) < number and tried < 3 * number:
        target = kinds[tried % len(kinds)]
        file, kind = chance.choice(target.files), KINDS[(tried // len(kinds)) % len(KINDS)]
        tried += 1
        outcome = trial(place, target, file, kind, chance, wanted[target.name])
        if outcome != "nothing":
            trials.append(Trial(target.name, file, kind, outcome))
            if trials[-1].wrong:
                print(f"{len(trials)}: {trials[-1]}", file=sys.stderr, flush=True)
    return trials


def count(trials: list[Trial], by: Callable[[Trial], str]) -> dict[str, Counter[str]]:
    """Outcomes by kind of file or of damage."""
    counts: dict[str, Counter[str]] = {}
    for one in trials:
        counts.setdefault(by(one), Counter())[one.word] += 1
    return counts


def main() -> None:
    """Run the trials and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("preftree").propagate = False
    with tempfile.TemporaryDirectory() as folder:
        trials = run_trials(Path(folder) / "place", options.number, options.seed)
    for by in (lambda one: one.target, lambda one: one.kind, lambda one: "all"):
        for name, found in count(trials, by).items():
            print(f"{name}: {dict(found)}")
    print("\n".join(str(one) for one in trials if one.wrong))


if __name__ == "__main__":
    main()

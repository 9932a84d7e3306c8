"""DPO on real dialogue with a real model, beside TRL: accuracy, answers, a beta sweep, an overfitted run, refusals.

    python benchmarks/real/hh.py --data hh_harmless_1000.jsonl.gz --out runs/real/hh     # says how long; resumable

The data are raw transcripts of Anthropic HH-RLHF (github.com/anthropics/hh-rlhf, MIT licence), such as the first 1,000
rows of harmless-base/test: the first 700 accepted rows train, the others are held out. Transcripts become messages, so
that the model's chat template applies. SmolLM2-135M-Instruct is first fine-tuned on the chosen answers (Preferred-FT,
the paper's start where there is no other), then DPO trains all weights from there, on three seeds of the order.

TRL 1.16 (the extra `bench`; without it a sentence says so) trains from the same start on the same rows in the order of
the first seed with the same options, at the number of pairs at once that is fastest in a trial of 16. Answers are
compared by the rules of rules.py. Writes OUT/figures.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from commands import claim, once, one_sentence, preftree, rows, write_lines
from prepare import prepare

from preftree.data.order import epoch_order
from preftree.errors import DataError
from preftree.stats.intervals import wilson

HERE = Path(__file__).resolve().parent
BATCH, BETA, LR, NEW_TOKENS, MAX_LENGTH = 32, 0.1, 5e-6, 64, 2048
BETAS = "0.05,0.1,0.3,1"
TRAINING = [f"batch_size={BATCH}", "optimizer=adamw", "schedule=constant", "warmup_steps=0", "max_grad_norm=1"]
ROWS = ["data.order=example", f"max_length={MAX_LENGTH}", "micro_batch_tokens=2048"]
SECONDS = {"Preferred-FT": 500, "a DPO run": 900, "TRL": 2500, "answers of a model": 180}
"""Of 700 pairs on two cores of a Xeon with AVX512, fp32; from 0.8 pairs a second, and guessed for TRL."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/real/hh"))
    parser.add_argument("--model", type=Path, help="a model folder; SmolLM2-135M-Instruct by default")
    parser.add_argument("--train-rows", type=int, default=700)
    parser.add_argument("--held-rows", type=int, help="at most so many rows are held out")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--overfitted-rows", type=int, default=40)
    parser.add_argument("--overfitted-epochs", type=int, default=12)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("--shown", type=int, default=0, help="seed of the ten answers that are printed")
    parser.add_argument("--trl-python", default=sys.executable, help="a Python with TRL 1.16")
    options = parser.parse_args()
    if not options.data.exists():
        raise DataError(f"--data names {options.data}, which is no file; give a file of HH transcripts")
    model = (options.model or prepare()).resolve()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    share = options.train_rows / 700
    whole = SECONDS["Preferred-FT"] + SECONDS["a DPO run"] * (len(seeds) + 4) + SECONDS["TRL"]
    print(f"about {(whole * share + 2 * SECONDS['answers of a model']) / 3600:.1f} hours on two cores", flush=True)

    out: Path = options.out
    plan = {"data": str(options.data), "model": str(model), "train_rows": options.train_rows}
    plan |= {"held_rows": options.held_rows, "new_tokens": options.new_tokens}
    claim(out, {**plan, "overfitted": [options.overfitted_rows, options.overfitted_epochs]})
    train, held = split(options.data, out, options.train_rows, options.held_rows)
    figures: dict[str, Any] = {}

    start = out / "start"
    figures["start"] = timed(out, "sft", f"model={model}", f"data={train}", "side=chosen", f"out={start}", "lr=1e-5")
    dpo = {seed: out / f"dpo-{seed}" for seed in seeds}
    for seed, folder in dpo.items():
        words = [f"model={start / 'model'}", f"data={train}", f"eval_data={held}", f"beta={BETA}", f"lr={LR}"]
        figures[folder.name] = timed(out, "dpo", *words, f"out={folder}", f"seed={seed}")
        figures[folder.name] |= held_out(folder)
    figures["trl"] = beside(options.trl_python, out, train, held, start / "model", seeds[0])

    first = dpo[seeds[0]]
    figures |= judged(out, held, {"start": start, "dpo": first}, options.new_tokens)
    figures["sweep"] = swept(out, train, held, start / "model")
    small = write_lines(out / "few.jsonl", train.read_text(encoding="utf-8").splitlines()[: options.overfitted_rows])
    words = [f"model={start / 'model'}", f"data={small}", f"eval_data={held}", "eval_every=5", f"beta={BETA}"]
    words += [f"epochs={options.overfitted_epochs}", f"out={out / 'overfitted'}", f"lr={4 * LR}"]
    timed(out, "dpo", *words)
    figures["overfitted"] = diagnosed(out / "overfitted")
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    show(figures, out, options.shown)


def split(data: Path, out: Path, train_rows: int, held_rows: int | None) -> tuple[Path, Path]:
    """Accepted rows as messages, the first `train_rows` apart from the rest."""
    accepted = out / "accepted.jsonl"
    once(accepted, "data", "convert", str(data), str(accepted))
    lines = [json.dumps(as_messages(row), ensure_ascii=False) for row in rows(accepted)]
    last = None if held_rows is None else train_rows + held_rows
    train, held = out / "train.jsonl", out / "held.jsonl"
    return write_lines(train, lines[:train_rows]), write_lines(held, lines[train_rows:last])


def as_messages(row: dict[str, str]) -> dict[str, Any]:
    """A row of transcripts, its prompt ending in "Assistant:", as messages."""
    turns = row["prompt"].split("\n\nHuman: ")[1:]
    prompt: list[dict[str, str]] = []
    for turn in turns:
        said, *answers = turn.split("\n\nAssistant:")
        prompt.append({"role": "user", "content": said.strip()})
        prompt += [{"role": "assistant", "content": answer.strip()} for answer in answers if answer.strip()]
    sides = {side: [{"role": "assistant", "content": row[side].strip()}] for side in ("chosen", "rejected")}
    return {"prompt": prompt, **sides}


def timed(out: Path, recipe: str, *words: str) -> dict[str, float]:
    """Run a recipe; the wall time of the whole command that finished it, and the peak memory that the run notes."""
    folder = Path(next(word for word in words if word.startswith("out=")).removeprefix("out="))
    note = out / f"{folder.name}.seconds"
    began = time.perf_counter()
    preftree(recipe, *words, *TRAINING, *ROWS, f"cache={out / 'cache'}")
    if not note.exists():
        note.write_text(f"{time.perf_counter() - began}\n", encoding="utf-8")
    summary = json.loads((folder / "summary.json").read_bytes())
    return {"seconds": float(note.read_text(encoding="utf-8")), "peak_gib": summary["peak_memory_bytes"] / 2**30}


def held_out(folder: Path) -> dict[str, float]:
    """The last evaluation of a run: accuracy by prompt with its interval, logratios, loss."""
    row = next(row for row in reversed(rows(folder / "metrics.jsonl")) if row.get("split") == "eval")
    names = ("accuracy", "accuracy_low", "accuracy_high", "chosen_logratio", "rejected_logratio", "loss")
    return {name: row[name] for name in names if name in row}


def beside(python: str, out: Path, train: Path, held: Path, start: Path, seed: int) -> dict[str, float] | None:
    """TRL on the same rows in the order of our seed; None, and a sentence, where it is not installed."""
    if subprocess.run([python, "-c", "import trl"], capture_output=True).returncode:
        print(f"{python} has no TRL, and its row is left out: pip install 'preftree[bench]', or give --trl-python")
        return None
    lines = train.read_text(encoding="utf-8").splitlines()
    order = epoch_order(len(lines), seed=seed, epoch=0)
    write_lines(out / "ordered.jsonl", [lines[index] for index in order])
    result = out / "trl" / "figures.json"
    if not result.exists():
        shutil.rmtree(out / "trl", ignore_errors=True)
        script = [python, str(HERE / "hh_trl.py"), "--model", str(start), "--out", str(out / "trl")]
        script += ["--data", str(out / "ordered.jsonl"), "--batch", str(BATCH), "--beta", str(BETA), "--lr", str(LR)]
        print("\n$", *script, flush=True)
        if code := subprocess.run(script).returncode:
            raise SystemExit(code)
    figures = json.loads(result.read_bytes())
    if "accuracy" not in figures:
        import preftree as api

        policy, reference = api.load(out / "trl" / "model"), api.load(start)
        pairs = api.tokenize(str(held), policy, max_length=MAX_LENGTH)
        measured = api.measure(policy, pairs, reference=reference, beta=BETA)
        names = ("accuracy", "accuracy_low", "accuracy_high", "chosen_logratio", "rejected_logratio", "loss")
        figures |= {name: measured[name] for name in names if name in measured}
        result.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    return figures


def judged(out: Path, held: Path, models: dict[str, Path], new_tokens: int) -> dict[str, Any]:
    """Greedy answers to the held-out prompts, their win rate by rules, and how many of them decline."""
    from rules import declines

    refusals: dict[str, Any] = {}
    for name, model in models.items():
        answers = out / f"answers-{name}.jsonl"
        limit = ["--temperature", "0", "--max-new-tokens", str(new_tokens)]
        preftree("generate", str(model), str(held), str(answers), *limit)
        given = rows(answers)
        number = sum(declines(row["prompt"], row["response"]) for row in given)
        refusals[name] = [number / len(given), *wilson(number, len(given))[1:]]
    sides = [str(out / f"answers-{name}.jsonl") for name in ("dpo", "start")]
    folder = out / "winrate"
    judge = ["--prompts", str(held), "--judge", f"{HERE / 'rules.py'}:harmless", "--out", str(folder)]
    once(folder / "winrate.json", "eval", "winrate", *sides, *judge)
    return {"refusals": refusals, "winrate": json.loads((folder / "winrate.json").read_bytes())}


def swept(out: Path, train: Path, held: Path, start: Path) -> dict[str, Any]:
    """A beta sweep, with what it recommends."""
    words = [f"model={start}", f"data={train}", f"eval_data={held}", f"lr={LR}", f"out={out / 'sweep'}"]
    preftree("sweep", "dpo", f"beta={BETAS}", *words, *TRAINING, *ROWS, f"cache={out / 'cache'}")
    return json.loads((out / "sweep" / "sweep.json").read_bytes())


def diagnosed(folder: Path) -> Any:
    """What the checks say of a run."""
    print(f"\n$ preftree eval diagnose {folder}", flush=True)
    command = [sys.executable, "-m", "preftree", "eval", "diagnose", str(folder), "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True).stdout)


def show(figures: dict[str, Any], out: Path, seed: int) -> None:
    """A table, the verdicts, and ten prompts with both answers, picked by a seed."""
    print("| run | wall, s | peak GiB | held-out accuracy | chosen, rejected logratio |\n|---|---|---|---|---|")
    for name, run in figures.items():
        if run and "seconds" in run:
            cells = [name, f"{run['seconds']:.0f}", f"{run['peak_gib']:.2f}", "", ""]
            if "accuracy" in run:
                ends = f" [{run['accuracy_low']:.3f}, {run['accuracy_high']:.3f}]" if "accuracy_low" in run else ""
                cells[3] = f"{run['accuracy']:.3f}{ends}"
                cells[4] = f"{run['chosen_logratio']:.2f}, {run['rejected_logratio']:.2f}"
            print(f"| {' | '.join(cells)} |")
    won = {name: figures["winrate"].get(name) for name in ("rate", "similar", "similar_pairs")}
    print(f"\nanswers of DPO against those of the start, by rules.py:harmless: {json.dumps(won)}")
    for name, (share, low, high) in figures["refusals"].items():
        print(f"{name} declines in {share:.3f} [{low:.3f}, {high:.3f}] of its answers")
    print(f"sweep: {out / 'sweep' / 'report.html'}; diagnosis: {json.dumps(figures['overfitted'])[:600]}\n")
    before, after = (rows(out / f"answers-{name}.jsonl") for name in ("start", "dpo"))
    for index in sorted(np.random.default_rng(seed).choice(len(before), min(10, len(before)), replace=False).tolist()):
        print(f"{before[index]['prompt'][-1]['content']}\n  start: {before[index]['response'].strip()}")
        print(f"  DPO:   {after[index]['response'].strip()}\n")


if __name__ == "__main__":
    one_sentence(main)

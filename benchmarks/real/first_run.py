"""A first run on a real model: DPO on 200 pairs teaches SmolLM2-135M to answer first, briefly, and then to stop.

    make real                                          # or: python benchmarks/real/first_run.py --out runs/real

Fetches the model (prepare.py), asks it six questions, trains on pairs.jsonl, asks again, and prints both. Each step is
a command of Preftree, printed before it runs; given again, this goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from commands import one_sentence, preftree, rows
from prepare import OUT, prepare
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
PAIRS, QUESTIONS = HERE / "pairs.jsonl", HERE / "questions.jsonl"
NEW_TOKENS = 96

# An adapter: frozen matrices need no gradients, so that it takes about two thirds of the time of all weights. DPO alone
# lowers the rejected answers and hardly raises the chosen ones; with the likelihood of the chosen one in the sum it
# does both (docs/numbers.md). .03 is about one over their tokens, by which Pang et al. 2024, arXiv:2404.19733, divide.
DPO = ["loss={dpo: 1.0, sft: 0.03}", "beta=0.1", "lora.r=16", "optimizer=adamw", "lr=3e-4", "schedule=linear"]
DPO += ["batch_size=8", "eval_every=10"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--more", nargs="*", default=[], metavar="key=value", help="options of `preftree dpo`")
    options = parser.parse_args()
    out, began = options.out, time.perf_counter()
    model = prepare(out)
    ask(model, out / "before.jsonl")
    preftree("dpo", f"model={model}", f"data={PAIRS}", "eval_data=0.2", f"out={out / 'dpo'}", *DPO, *options.more)
    ask(out / "dpo", out / "after.jsonl")
    show(out, time.perf_counter() - began)


def ask(model: Path, answers: Path) -> None:
    """Greedy answers to the six questions."""
    preftree(
        "generate", str(model), str(QUESTIONS), str(answers), "--temperature", "0", "--max-new-tokens", str(NEW_TOKENS)
    )


def show(out: Path, seconds: float) -> None:
    """The answers side by side, the figures on the 40 held-out pairs, and where to go from here."""
    before, after = (rows(out / f"{name}.jsonl") for name in ("before", "after"))
    table = Table(show_lines=True, title=f"Six questions that are in no pair, greedy, at most {NEW_TOKENS} tokens")
    for head in ("question", "before", "after"):
        table.add_column(head, ratio=1 if head == "question" else 2)
    for old, new in zip(before, after, strict=True):
        table.add_row(old["prompt"][-1]["content"], shown(old), shown(new))
    console = Console()
    console.print(table)
    held = next(row for row in reversed(rows(out / "dpo" / "metrics.jsonl")) if row.get("split") == "eval")
    words = [statistics.mean(len(row["response"].split()) for row in answers) for answers in (before, after)]
    ended = [sum(row["finished"] for row in answers) for answers in (before, after)]
    run = out / "dpo"
    print(
        f"an answer has {words[0]:.0f} words before and {words[1]:.0f} after; {ended[0]} and {ended[1]} of "
        f"{len(after)} end by themselves\n"
        f"held out: the preferred answer has the higher implicit reward in {held['accuracy']:.3f} of {held['pairs']} "
        f"pairs, 95 % interval {held['accuracy_low']:.3f} to {held['accuracy_high']:.3f}\n"
        f"{seconds / 60:.1f} minutes in this call\n\n"
        f"report            {run / 'report.html'}\n"
        f"talk to it        preftree chat {run}\n"
        f"both, blind       preftree chat {run} --against {out / 'model'} --blind --record mine.jsonl\n"
        f"what looks wrong  preftree eval diagnose {run}\n"
        f"give it away      preftree export {run} {out / 'merged'} --merged\n"
        f"for llama.cpp     preftree export {run} {out / 'gguf'} --gguf q8_0"
    )


def shown(row: dict[str, Any]) -> str:
    return row["response"].strip() + ("" if row["finished"] else " [cut]")


if __name__ == "__main__":
    one_sentence(main)

"""Trees across prompts beside trees of one prompt each, in turns of one process: tokens, attention calls, CPU seconds.

    python benchmarks/sharing.py --profile hh system tools --turns 15

A turn is one DPO step on the same pairs, first with trees of one prompt, then with trees across prompts, at a learning
rate of 0; the norms of the gradients must agree. With `--data FILE --model FOLDER` the pairs are those of a file, with
the model's tokenizer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common import BUDGET, PROFILES, SIZES, prepare, ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", nargs="+", choices=PROFILES, default=["hh", "system", "tools"])
    parser.add_argument("--data", type=Path, help="pairs of a file in place of a profile's")
    parser.add_argument("--model", type=Path, help="with --data: a model folder in place of a random one")
    parser.add_argument("--size", choices=SIZES, default="31m")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--pairs", type=int, default=16, help="pairs of a step")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--budget", type=int, default=BUDGET)
    options = parser.parse_args()
    print("| rows | tokens of lone rows, apart | across | branches, apart | across | CPU s, apart | across | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for profile in [options.data.name] if options.data else options.profile:
        with tempfile.TemporaryDirectory() as folder:
            options.folder, options.profile = Path(folder), profile
            if options.data:
                make_folder(options)
            else:
                prepare(options)
            compare(options)


def make_folder(options: argparse.Namespace) -> None:
    """The first pairs of a file, and the model, where `prepare` puts those of a profile."""
    from preftree.data.tools.convert import convert_file

    convert_file(str(options.data), options.folder / "all.jsonl")
    lines = (options.folder / "all.jsonl").read_text().splitlines(keepends=True)
    (options.folder / "pairs.jsonl").write_text("".join(lines[: options.pairs]))
    shutil.copytree(options.model, options.folder / "model")


@contextmanager
def one_prompt_a_tree() -> Iterator[None]:
    """No beginning is long enough to be shared by two prompts."""
    from preftree.tree import layout, units

    before = layout.LEAST_SHARED
    layout.LEAST_SHARED = units.LEAST_SHARED = 10**9
    try:
        yield
    finally:
        layout.LEAST_SHARED = units.LEAST_SHARED = before


def compare(options: argparse.Namespace) -> None:
    from preftree.runtime.ranks import open_ranks
    from preftree.tree.pack import plan_step

    with open_ranks() as ranks:
        bench = ready(options, ranks, lr=0.0, budget=options.budget)
        rows = np.arange(options.pairs)
        examples = [bench.store[index].sequences for index in rows.tolist()]
        prompts = bench.store.prompts[rows].tolist()
        alone = sum(len(sequence.trimmed().ids) - 1 for pair in examples for sequence in pair)

        def laid_out() -> tuple[float, int]:
            (plan,) = plan_step(examples, prompts, budget=options.budget, sharing=bench.scorer.sharing)
            tokens = sum(len(micro.batch.input_T) for micro in plan)
            return tokens / alone, sum(len(micro.batch.branches) for micro in plan)

        def timed() -> tuple[float, float]:
            began = os.times()
            norm = bench.step(rows).grad_norm
            ended = os.times()
            return ended.user + ended.system - began.user - began.system, norm

        with one_prompt_a_tree():
            apart = laid_out()
            timed()  # warms up
        across = laid_out()
        seconds: list[tuple[float, float]] = []
        for _ in range(options.turns):
            with one_prompt_a_tree():
                first, norm = timed()
            second, other = timed()
            assert abs(norm - other) < 1e-3 * norm, f"the gradients have norms {norm} and {other}"
            seconds.append((first, second))
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    ratio = statistics.median(second / first for first, second in seconds)
    print(
        f"| {options.profile}, {options.precision} | {apart[0]:.3f} | {across[0]:.3f} | {apart[1]} | {across[1]} "
        f"| {medians[0]:.2f} | {medians[1]:.2f} | {ratio:.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()

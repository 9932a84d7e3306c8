"""Benchmark of the attention paths: a Markdown table of which is fastest where.

    python benchmarks/attention.py --sizes 0.5b 1.5b --precision bf16

For each size and length profile it takes trees as a step packs them, up to the budget of a micro-batch, and measures
two times a path, each the best of several rounds: forward and backward of one layer's attention with the mask prepared,
and of a whole model of random weights, mask and head included. The update is the same for all paths and is left out. A
path that is not available is listed with the reason. On a CPU the sizes are tiny and only show that the script runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import BUDGET, PROFILES, SIZES, VOCABULARY, now

PATHS = ("sdpa", "flex", "varlen")
HERE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.5b", "1.5b"] if HERE == "cuda" else ["9m"])
    parser.add_argument("--profiles", nargs="+", choices=PROFILES, default=list(PROFILES) if HERE == "cuda" else ["hh"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument(
        "--budget", type=int, default=BUDGET if HERE == "cuda" else 1024, help="tokens of a micro-batch"
    )
    parser.add_argument("--rounds", type=int, default=10 if HERE == "cuda" else 2)
    options = parser.parse_args()
    where = torch.cuda.get_device_name() if HERE == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"torch {torch.__version__}, {where}, {options.precision}, budget {options.budget}, best of {options.rounds}\n"
    )
    print("| size | profile | tokens | keys gathered | path | one layer, ms | whole model, ms | peak, MiB | wins |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in options.sizes:
        scorers, reasons = build(size, options.precision)
        for profile in options.profiles:
            compare(size, profile, scorers, reasons, options)


def build(size: str, precision: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Scorers of one model by path, and for the other paths why there is none."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from preftree.errors import ModelError
    from preftree.scoring.scorer import Scorer

    width, inner, layers, heads = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=8192,
    )
    with torch.device(HERE):
        model = LlamaForCausalLM(config).eval()
    scorers, reasons = {}, {}
    for path in PATHS:
        if path == "flex" and HERE == "cpu":
            reasons[path] = "flex has no backward on the CPU"
            continue
        try:
            scorers[path] = Scorer(model, precision=precision, attention=path)
        except ModelError as error:
            reasons[path] = str(error)
    return scorers, reasons


def trees(profile: str, budget: int) -> Any:
    """One micro-batch: trees of random lengths until the next would not fit."""
    from preftree.tree.layout import TokenSequence, batch_trees, grow_tree

    rng, grown, tokens = np.random.default_rng(0), [], 0
    lengths = PROFILES[profile]
    spread, tries = lengths["spread"], 0

    def draw(mean: float) -> np.ndarray:
        length = int(np.exp(rng.normal(np.log(mean) - spread**2 / 2, spread)))
        return rng.integers(3, VOCABULARY, max(2, min(length, int(4 * mean))))

    while True:
        prompt = draw(lengths["prompt"])
        rows = [np.concatenate([prompt, draw(mean)]).astype(np.int32) for mean in lengths["responses"]]
        tree = grow_tree([TokenSequence(row, np.arange(len(row)) >= len(prompt)) for row in rows])
        if tokens + len(tree) > budget:
            if grown:
                return batch_trees(grown)
            tries += 1  # this tree alone is too large, but the next may fit
            if tries == 100:
                raise SystemExit(f"--budget {budget} is too small for a tree of profile {profile}; raise it")
            continue
        grown.append(tree)
        tokens += len(tree)


def compare(
    size: str, profile: str, scorers: dict[str, Any], reasons: dict[str, str], options: argparse.Namespace
) -> None:
    """The rows of the table for one size and profile; the fastest whole model wins."""
    batch = trees(profile, options.budget).to(HERE)
    keys = sum(branch.depth + branch.stop - branch.start for branch in batch.branches)
    head = f"| {size} | {profile} | {len(batch.input_T)} | {keys}"
    figures: dict[str, tuple[float, float, float]] = {}
    failed = dict(reasons)
    for path, scorer in scorers.items():
        try:
            layer = best(one_layer(size, path, batch, options.precision), options.rounds)
            if HERE == "cuda":
                torch.cuda.reset_peak_memory_stats()
            whole = best(lambda: whole_model(scorer, batch), options.rounds)  # noqa: B023  # at once
        except torch.cuda.OutOfMemoryError:
            failed[path] = "out of memory"
            continue
        finally:
            scorer.zero_grad(set_to_none=True)
        peak = torch.cuda.max_memory_allocated() / 2**20 if HERE == "cuda" else float("nan")
        figures[path] = (layer, whole, peak)
    first = min(figures, key=lambda path: figures[path][1]) if len(figures) > 1 else None
    for path in PATHS:
        if path in figures:
            layer, whole, peak = figures[path]
            memory = f"{peak:.0f}" if HERE == "cuda" else "-"
            print(
                f"{head} | {path} | {1e3 * layer:.2f} | {1e3 * whole:.1f} | {memory} | {'*' if path == first else ''} |"
            )
        else:
            print(f"{head} | {path} | - | - | - | {failed[path]} |")


def one_layer(size: str, path: Any, batch: Any, precision: str) -> Callable[[], object]:
    """Forward and backward of one attention."""
    from preftree.scoring.attention.dispatch import tree_attention
    from preftree.scoring.attention.types import TreeMask

    width, _, _, heads = SIZES[size]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    shape = (1, len(batch.input_T), heads, width // heads)
    leaves = [torch.randn(shape, dtype=dtype, device=HERE, requires_grad=True) for _ in range(3)]
    tree, slope = TreeMask(batch, path), torch.randn(shape, dtype=dtype, device=HERE)

    def work() -> object:
        out, _ = tree_attention(nn.Identity(), *(leaf.transpose(1, 2) for leaf in leaves), tree=tree)
        return torch.autograd.grad(out, leaves, slope)

    return work


def whole_model(scorer: Any, batch: Any) -> Tensor:
    """Forward and backward of all layers and of the head."""
    logps = scorer(batch)
    logps.sum().backward()
    return logps


def best(work: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest round, after one that warms up and compiles."""
    work()
    times = []
    for _ in range(rounds):
        began = now()
        work()
        times.append(now() - began)
    return min(times)


if __name__ == "__main__":
    main()

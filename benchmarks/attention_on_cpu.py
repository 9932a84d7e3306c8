"""The CPU's flash kernel in bf16 and in fp32: time and error of its backward by queries and keys, a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/attention_on_cpu.py

Both backwards have the inputs and the output of the bf16 forward, as in training; the error is relative to float64.
Times are the best of several rounds. `scoring/attention/on_cpu.py` computes its backward in fp32 because of this table.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor

HEADS, WIDTH = 6, 64
SHAPES = ((20, 120), (50, 120), (120, 0), (100, 120), (200, 120), (300, 200), (500, 0))  # queries, keys before them

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {HEADS} heads of {WIDTH}\n")
    print("| queries | keys | forward, ms: bf16 | fp32 | backward, ms: bf16 | fp32 | its error: bf16 | fp32 |")
    print("|---|---|---|---|---|---|---|---|")
    for queries, before in SHAPES:
        torch.manual_seed(0)
        rows = [torch.randn(1, HEADS, n, WIDTH).bfloat16() for n in (queries, before + queries, before + queries)]
        slope = torch.randn(1, HEADS, queries, WIDTH).bfloat16()
        hidden = torch.arange(before + queries)[None] > torch.arange(queries)[:, None] + before
        mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
        exact = gradients(rows, slope, mask, torch.float64, rounded=False)()
        low = gradients(rows, slope, mask, torch.bfloat16)
        wide = gradients(rows, slope, mask, torch.float32)
        cells = [f"{queries}", f"{before + queries}"]
        for dtype in (torch.bfloat16, torch.float32):
            inputs = [row.to(dtype) for row in rows]
            cells.append(f"{best(functools.partial(_forward, *inputs, attn_mask=mask), options.rounds):.2f}")
        cells += [f"{best(backward, options.rounds):.2f}" for backward in (low, wide)]
        for backward in (low, wide):
            pairs = zip(backward(), exact, strict=True)
            cells.append(f"{max(float((ours.double() - true).norm() / true.norm()) for ours, true in pairs):.1e}")
        print(f"| {' | '.join(cells)} |")


def gradients(
    rows: list[Tensor], slope: Tensor, mask: Tensor, dtype: torch.dtype, *, rounded: bool = True
) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """The kernel's backward in a dtype, after a forward in bf16, or in that dtype."""
    inputs, g = [row.to(dtype) for row in rows], slope.to(dtype)
    hidden = mask.double() if dtype == torch.float64 else mask
    out, normaliser = _forward(*(rows if rounded else inputs), attn_mask=mask if rounded else hidden)
    return lambda: _backward(g, *inputs, out.to(dtype), normaliser, 0.0, False, attn_mask=hidden)


def best(work: Callable[[], object], rounds: int) -> float:
    """Milliseconds of the fastest of several rounds."""
    work()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return 1e3 * min(seconds)


if __name__ == "__main__":
    main()

"""How well trees agree with each architecture's own forward, as a table.

PYTHONPATH=tests python -m support.agreement --trees 64
"""

from __future__ import annotations

import argparse
import copy
import warnings

import numpy as np
import torch

from preftree.losses.quantities import sum_responses
from preftree.scoring.scorer import Scorer
from support.models import ARCHITECTURES, MIXTURES, ROWS, plain_all, random_sequences, tiny


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=64)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    groups = [
        random_sequences(
            rng,
            responses=int(rng.integers(1, 6)),
            prompt=int(rng.integers(1, 201)),
            alphabet=6 if number % 2 else 101,
        )
        for number in range(options.trees)
    ]
    print(f"{options.trees} trees, {sum(map(len, groups))} responses\n")
    print("| architecture | layout | fp32: largest difference of a summed logp | gradient, relative |")
    print("|---|---|---|---|")
    for name in [*ARCHITECTURES, *ROWS]:
        difference = compare(name, groups, torch.float32)[0]
        dtype = torch.float64 if name in MIXTURES else torch.float32
        gradient = compare(name, groups[:8], dtype)[1]
        layout = "rows" if name in ROWS else "trees"
        note = " (float64)" if name in MIXTURES else ""
        print(f"| {name} | {layout} | {difference:.1e} | {gradient:.1e}{note} |", flush=True)


def compare(name: str, groups: list, dtype: torch.dtype) -> tuple[float, float]:
    model = tiny(name, dtype=dtype)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    scorer = Scorer(model)
    batch = scorer.lay_out(groups)
    ours = sum_responses(scorer(batch), batch.count_R).values
    theirs = plain_all(plain, groups)
    coefficients = torch.linspace(-1, 1, len(ours), dtype=torch.float64)
    (ours * coefficients).sum().backward()
    (theirs * coefficients).sum().backward()
    pairs = [
        (mine.grad.double(), other.grad.double())
        for mine, other in zip(model.parameters(), plain.parameters(), strict=True)
        if mine.grad is not None and other.grad is not None
    ]
    off = sum(float((mine - other).square().sum()) for mine, other in pairs) ** 0.5
    size = sum(float(other.square().sum()) for _, other in pairs) ** 0.5
    return float((ours - theirs).abs().max()), off / size


if __name__ == "__main__":
    main()

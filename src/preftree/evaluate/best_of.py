"""Expected reward of best-of-n for every n, from N samples of each prompt."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def expected_best(rewards: Float[np.ndarray, "X N"]) -> Float[np.ndarray, "X N"]:
    """Unbiased estimates of the expected reward of the best of n samples, for n = 1 to N.

    The mean over all subsets of n samples of their best: with the rewards in rising order, the i-th is the best of
    C(i - 1, n - 1) of the C(N, n) subsets.

    Args:
      rewards: Rewards of N independent samples of each prompt.
    Returns:
      A column for each n, from 1 to N; the first holds the means, the last the best.
    Source: the U-statistic of a maximum; Chen et al. 2021, arXiv:2107.03374, Eq. 1 is its case of rewards 0 and 1.
    """
    rising = np.sort(rewards, axis=1)
    num = rising.shape[1]
    weights = np.zeros((num, num))
    for index, n in enumerate(range(1, num + 1)):
        # Falling from i = N, where C(N - 1, n - 1) / C(N, n) = n / N: factors below 1, so nothing overflows.
        weight = n / num
        for rank in range(num, n - 1, -1):
            weights[rank - 1, index] = weight
            weight *= (rank - n) / (rank - 1) if rank > 1 else 0.0
    return rising @ weights

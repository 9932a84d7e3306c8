"""Win rate at equal length: what a rate would be if neither side wrote longer answers, and no side were preferred."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

from preftree.stats.intervals import Estimate

FEWEST_PROMPTS = 10
"""Prompts below which nothing is fitted."""

BOUND = 12.0
"""Log-odds beyond which a coefficient has no maximum within reach: 6 wins in a million."""

_MOST_STEPS = 60
_SETTLED = 1e-9
_LONGEST_STEP = 2.0


class Controlled(NamedTuple):
    """A win rate at equal length.

    Attributes:
      rate: The rate at no difference in length and no preferred side, with its 95 % interval by prompt; None where it
        is not identifiable.
      length: Log-odds that a side gains by being much longer (tanh = 1), with its interval; None with the rate.
      left: Log-odds that a side gains by being shown left, with its interval; None with the rate, or with one order.
      reason: Why it is not identifiable; "" where it is.
    """

    rate: Estimate | None
    length: Estimate | None
    left: Estimate | None
    reason: str = ""

    def as_json(self, *, shown: bool = True) -> dict[str, Any]:
        """The rate, the effect of length and the reason as JSON values; no rate where it is not to be shown."""
        return {
            "controlled": self.rate._asdict() if self.rate is not None and shown else None,
            "length_effect": self.length and self.length._asdict(),
            "not_controlled": self.reason or None,
        }


def control_length(
    values: Float[np.ndarray, "P O"],
    gaps: Float[np.ndarray, " P"],
    prompts: Int[np.ndarray, " P"],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> Controlled:
    """Binomial regression of results on the difference in length, read at no difference.

    logit E[y] = theta + phi tanh(gap / sd(gap)) + psi s, s = +1 where A was shown left and -1 where it was shown right
    (no such term where one order was shown), and the rate is sigmoid(theta). It turns with the sides: the rates of A
    over B and of B over A sum to 1. The interval is the percentile bootstrap over prompts of the whole fit. The mean of
    both orders alone is drawn towards 1/2 by a preferred side; the term for it takes that out. Prompts differ in how
    clear their winner is: theta is the logit of the mean over them, not the mean of their logits.

    Args:
      values: Result of each pair for A in [0, 1] with A left, and with A right where both orders were shown, [P, O],
        O = 1 or 2.
      gaps: Length of A's response less that of B's, any unit, [P].
      prompts: Number of each pair's prompt, [P]; a prompt counts by the means over its pairs.
      seed: Seed of the resampling.
      resamples: Number of resamples.
    Raises:
      ValueError: lengths differ, or a value is outside [0, 1].
    Source: Dubois et al. 2024, arXiv:2404.04475, equation 2: its term for length. Its terms for the difficulty of a
      prompt need other models' verdicts on it; the term for the side is new here.
    """
    if len(values) != len(gaps) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"values must be in [0, 1], a row for each of {len(gaps)} gaps, got {values.shape}")
    rows = np.unique(prompts, return_inverse=True)[1]
    counts = np.bincount(rows)
    values = np.stack([np.bincount(rows, column) / counts for column in values.T], axis=1)
    gaps = np.bincount(rows, gaps) / counts
    if len(values) < FEWEST_PROMPTS:
        return Controlled(None, None, None, f"{len(values)} prompts are too few, wanted {FEWEST_PROMPTS}")
    if np.ptp(gaps) == 0:
        return Controlled(None, None, None, "the difference in length is the same on every prompt")
    if np.ptp(values) == 0 and values[0, 0] in (0, 1):
        return Controlled(None, None, None, "every prompt has the same winner")
    fit = fit_lengths(values, gaps, np.ones((1, len(values))))[0]
    if np.abs(fit[:2]).max() >= BOUND:
        one_sided = ", and one side is never the shorter one" if (gaps >= 0).all() or (gaps <= 0).all() else ""
        return Controlled(None, None, None, f"the difference in length alone says who wins{one_sided}")
    generator, num = np.random.default_rng(seed), len(values)
    piece = max(1, 2**19 // values.size)  # so many resamples at a time that memory stays near 64 MiB
    drawn = []
    for start in range(0, resamples, piece):
        counts = generator.multinomial(num, [1 / num] * num, min(piece, resamples - start)).astype(np.float64)
        drawn.append(fit_lengths(values, gaps, counts, start=fit))
    ends = np.quantile(np.concatenate(drawn), [0.025, 0.975], axis=0)
    theta, length, *left = (Estimate(*terms) for terms in np.stack([fit, *ends], axis=1).tolist())
    return Controlled(Estimate(*expit(theta).tolist()), length, left[0] if left else None)


def fit_lengths(
    values: Float[np.ndarray, "N O"],
    gaps: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
    *,
    start: Float[np.ndarray, " C"] | None = None,
) -> Float[np.ndarray, "R C"]:
    """Maximum-likelihood (theta, phi), and psi with two orders, of every weighting of the prompts, within `BOUND`.

    Newton's method, from zero or from `start`. Where all gaps of a weighting are equal, phi stays where it starts.
    """
    num_orders, y = values.shape[1], values.ravel()
    share = weights / weights.sum(1, keepdims=True)
    spread = np.sqrt(np.maximum(share @ gaps**2 - (share @ gaps) ** 2, 0))
    is_flat = spread <= 1e-9 * np.abs(gaps).max()
    x = np.tanh(gaps / np.where(is_flat, 1, spread)[:, None]) * ~is_flat[:, None]
    share = np.repeat(share, num_orders, axis=1)
    terms = [np.ones_like(share), np.repeat(x, num_orders, axis=1)]
    if num_orders == 2:
        terms.append(np.broadcast_to(np.tile([1.0, -1.0], len(values)), share.shape))
    design = np.stack(terms, axis=2)
    coefficients = np.tile(np.zeros(len(terms)) if start is None else start, (len(weights), 1))
    flat_phi = is_flat[:, None, None] * np.diag([0.0, 1.0, 0.0][: len(terms)])
    for _ in range(_MOST_STEPS):
        chance = expit((design @ coefficients[:, :, None])[:, :, 0])
        slope = ((share * (y - chance))[:, None, :] @ design)[:, 0]
        bent = (design * (share * chance * (1 - chance))[:, :, None]).transpose(0, 2, 1) @ design
        bent += flat_phi + 1e-12 * np.eye(len(terms))
        step = np.linalg.solve(bent, slope[:, :, None])[:, :, 0]
        before = coefficients
        coefficients = np.clip(before + np.clip(step, -_LONGEST_STEP, _LONGEST_STEP), -BOUND, BOUND)
        if np.abs(coefficients - before).max() < _SETTLED:
            break
    return coefficients

"""Which examples make which optimiser step: pure functions of (seed, epoch, index), so a position is one integer.

Steps are counted over all epochs. The last step of an epoch takes what is left, however few; an example comes once an
epoch. Python's and NumPy's own random numbers are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int, UInt

from preftree.data.store import TokenStore
from preftree.errors import DataError


class Step(NamedTuple):
    """The examples of one optimiser step.

    Attributes:
      step: Its number over all epochs, from 0.
      epoch: From 0.
      indices: Its examples, [B]; fewer at the end of an epoch.
    """

    step: int
    epoch: int
    indices: Int[np.ndarray, " B"]


def order_groups(prompts: Int[np.ndarray, " N"], order: Literal["prompt", "example"]) -> Int[np.ndarray, " N"] | None:
    """What moves together: the prompts where the order is by prompt and any prompt repeats, else nothing."""
    if order == "example" or len(np.unique(prompts)) == len(prompts):
        return None
    return prompts


def epoch_order(
    num_examples: int, *, seed: int, epoch: int, groups: Int[np.ndarray, " N"] | None = None
) -> Int[np.ndarray, " N"]:
    """A permutation of all examples.

    Sorting by raw bits of a counter-based generator, rather than NumPy's own shuffle, gives the same order in every
    version of NumPy.

    Args:
      num_examples: N.
      seed: Of the run, >= 0.
      epoch: From 0.
      groups: Examples with equal values stay together and in file order, [N]; None moves each by itself.
    Raises:
      ValueError: groups are not one for each example.
    """
    if groups is None:
        return np.argsort(_random_bits(num_examples, seed, epoch), kind="stable")
    if len(groups) != num_examples:
        raise ValueError(f"wanted a group for each of {num_examples} examples, got {len(groups)}")
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    # A group draws its place by where it first stands in the file, whatever number names it.
    bits = np.empty(len(first), np.uint64)
    bits[np.argsort(first, kind="stable")] = _random_bits(len(first), seed, epoch)
    place = np.empty(len(first), np.int64)
    place[np.argsort(bits, kind="stable")] = np.arange(len(first))
    return np.argsort(place[group.reshape(-1)], kind="stable")


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Optimiser steps of one epoch; a short last one counts."""
    return -(-num_examples // batch_size)


def step_indices(
    step: int, *, num_examples: int, batch_size: int, seed: int, groups: Int[np.ndarray, " N"] | None = None
) -> Int[np.ndarray, " B"]:
    """The examples of one step; sorts a whole epoch, so a loop takes `iterate_steps`."""
    epoch, within = divmod(step, steps_per_epoch(num_examples, batch_size))
    order = epoch_order(num_examples, seed=seed, epoch=epoch, groups=groups)
    return order[within * batch_size : (within + 1) * batch_size]


def iterate_steps(
    start: int,
    stop: int,
    *,
    num_examples: int,
    batch_size: int,
    seed: int,
    groups: Int[np.ndarray, " N"] | None = None,
) -> Iterator[Step]:
    """Steps `start` to `stop - 1`; each is `step_indices` of its number, whatever was made before."""
    length = steps_per_epoch(num_examples, batch_size)
    known, order = -1, np.empty(0, np.int64)
    for step in range(start, stop):
        epoch, within = divmod(step, length)
        if epoch != known:
            known, order = epoch, epoch_order(num_examples, seed=seed, epoch=epoch, groups=groups)
        yield Step(step, epoch, order[within * batch_size : (within + 1) * batch_size])


def split_by_prompt(
    store: TokenStore, share: float, seed: int
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " eval"]]:
    """Hold out a share of a store's examples; see `hold_out`.

    Returns:
      Indices of the training and of the held-out examples, both in file order.
    Raises:
      DataError: there are fewer than two prompts.
    """
    return hold_out(store.prompts, share, seed)


def hold_out(
    prompts: Int[np.ndarray, " N"], share: float, seed: int
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " eval"]]:
    """Hold out a share of the examples, prompt by prompt: no prompt is in both parts.

    Prompts are held out in the order of a keyed hash for as long as the share is not exceeded, and one at least; so the
    choice does not depend on the order of the file.

    Args:
      prompts: The prompt of each example, as `TokenStore.prompts`, [N].
      share: Between 0 and 1, of the examples.
      seed: Another seed, another choice.
    Returns:
      Indices of the training and of the held-out examples, both in file order.
    Raises:
      DataError: there are fewer than two prompts.
    """
    names, group, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"a held-out part needs at least two prompts, got {len(names)}; give eval_data a file of its own"
        )
    key = str(seed).encode()
    hashes = [blake2b(int(name).to_bytes(8, "big", signed=True), digest_size=8, key=key).digest() for name in names]
    order = np.array(sorted(range(len(names)), key=hashes.__getitem__))
    within = np.cumsum(counts[order]) <= round(share * len(prompts))
    taken = min(max(int(within.sum()), 1), len(names) - 1)
    held = np.zeros(len(names), np.bool_)
    held[order[:taken]] = True
    mask = held[group.reshape(-1)]
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _random_bits(count: int, seed: int, epoch: int) -> UInt[np.ndarray, " N"]:
    return np.random.Philox(np.random.SeedSequence((seed, epoch))).random_raw(count)

"""Order of the examples over optimiser steps: pure functions of (seed, epoch, index), so a position is one integer.

Steps are counted over all epochs. The last step of an epoch takes the remaining examples; each example comes once per
epoch. Python's and NumPy's global random number generators are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
from jaxtyping import Int, UInt

from preftree.config.base import RowOrder
from preftree.data.store.example import NO_PROMPT
from preftree.errors import DataError


def order_groups(prompts: Int[np.ndarray, " N"], order: RowOrder, batch_size: int) -> Int[np.ndarray, " N"] | None:
    """Groups of examples that stay together in the shuffle: those of one prompt, none if the order is by example.

    A prompt with more examples than a step holds is split, in file order, into groups of a step's size and a
    remainder: as one group it would not be shuffled. Examples without a prompt are shuffled one by one, and so are all
    examples if they have the same prompt.

    Args:
      prompts: The prompt of each example, as `TokenStore.prompts`, [N].
      order: By prompt, by example, by prefix (`data/alike.py` joins the groups of prompts that begin alike), or as in
        the file.
      batch_size: Examples of a step.
    Returns:
      A number for each example, equal for those that stay together; None where all are shuffled one by one.
    """
    names, group, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    if order in ("example", "file") or len(names) in (1, len(prompts)):
        return None
    group = group.reshape(-1)
    by_group = np.argsort(group, kind="stable")
    within = np.empty(len(prompts), np.int64)  # index of each among the examples of its prompt
    within[by_group] = np.arange(len(prompts)) - np.repeat(np.cumsum(counts) - counts, counts)
    chunk = np.where(prompts == NO_PROMPT, within, within // batch_size)
    _, numbers = np.unique(group * (int(chunk.max()) + 1) + chunk, return_inverse=True)
    return numbers.reshape(-1)


def epoch_order(
    num_examples: int, *, seed: int, epoch: int, groups: Int[np.ndarray, " N"] | None = None
) -> Int[np.ndarray, " N"]:
    """A permutation of all examples.

    Sorting by raw bits of a counter-based generator, instead of NumPy's shuffle, gives the same order in every version
    of NumPy.

    Args:
      num_examples: Number of examples, N.
      seed: Seed of the run, >= 0.
      epoch: Number of the epoch, from 0.
      groups: Examples with equal values stay together and in file order, [N]; None shuffles them one by one.
    Raises:
      ValueError: groups are not one for each example.
    """
    if groups is None:
        return np.argsort(_random_bits(num_examples, seed, epoch), kind="stable")
    if len(groups) != num_examples:
        raise ValueError(f"wanted a group for each of {num_examples} examples, got {len(groups)}")
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    # The position of a group depends on its first example in the file, not on the group's number.
    bits = np.empty(len(first), np.uint64)
    bits[np.argsort(first, kind="stable")] = _random_bits(len(first), seed, epoch)
    position = np.empty(len(first), np.int64)
    position[np.argsort(bits, kind="stable")] = np.arange(len(first))
    return np.argsort(position[group.reshape(-1)], kind="stable")


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Optimiser steps of one epoch; a short last one counts."""
    return -(-num_examples // batch_size)


def iterate_steps(
    start: int,
    stop: int,
    *,
    num_examples: int,
    batch_size: int,
    seed: int,
    groups: Int[np.ndarray, " N"] | None = None,
    shuffle: bool = True,
) -> Iterator[Int[np.ndarray, " B"]]:
    """The examples of steps `start` to `stop - 1`; each step depends on its number alone."""
    length = steps_per_epoch(num_examples, batch_size)
    known, order = -1, np.empty(0, np.int64)
    for step in range(start, stop):
        epoch, within = divmod(step, length)
        if epoch != known:
            known, order = epoch, np.arange(num_examples)
            if shuffle:
                order = epoch_order(num_examples, seed=seed, epoch=epoch, groups=groups)
        yield order[within * batch_size : (within + 1) * batch_size]


def hold_out(
    prompts: Int[np.ndarray, " N"], share: float, seed: int
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " eval"]]:
    """Hold out a share of the examples, prompt by prompt: no prompt is in both parts.

    Prompts are taken in the order of a keyed hash; a prompt that would exceed the share is skipped. Where none fits,
    the one with the fewest examples is taken. The choice does not depend on the order of the file, except for examples
    without a prompt, which are taken one by one, by their number among these.

    Args:
      prompts: The prompt of each example, as `TokenStore.prompts`, [N].
      share: Share of the examples, between 0 and 1.
      seed: Seed of the choice.
    Returns:
      Indices of the training and of the held-out examples, both in file order.
    Raises:
      DataError: there are fewer than two prompts, and fewer than two examples without one.
    """
    key = str(seed).encode()

    def digest(kind: bytes, name: int) -> bytes:
        return blake2b(kind + name.to_bytes(8, "big", signed=True), digest_size=8, key=key).digest()

    bare = np.flatnonzero(prompts == NO_PROMPT)
    names, group, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    group, prompted = group.reshape(-1), names != NO_PROMPT
    hashes = [digest(b"", name) if name != NO_PROMPT else b"" for name in names.tolist()]
    # Hash and size of each unit: first the prompts (NO_PROMPT has no examples left), then single examples.
    group[bare] = len(names) + np.arange(len(bare))
    counts = np.concatenate([np.where(prompted, counts, 0), np.ones(len(bare), np.int64)])
    hashes += [digest(b"row", number) for number in range(len(bare))]
    units = [unit for unit in sorted(range(len(counts)), key=hashes.__getitem__) if counts[unit]]
    if len(units) < 2:
        raise DataError(f"a held-out part needs at least two prompts, got {len(units)}; give eval_data a separate file")
    room = min(round(share * len(prompts)), len(prompts) - 1)
    held = np.zeros(len(counts), np.bool_)
    for unit in units:
        if counts[unit] <= room:
            held[unit] = True
            room -= int(counts[unit])
    if not held.any():
        held[min(units, key=counts.__getitem__)] = True
    mask = held[group]
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _random_bits(count: int, seed: int, epoch: int) -> UInt[np.ndarray, " N"]:
    return np.random.Philox(np.random.SeedSequence((seed, epoch))).random_raw(count)

"""Sums and maxima over ranks. Nothing here divides: the divisor of a step's mean is known before any forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from preftree.errors import TrainingError, UserError, out_of_memory
from preftree.runtime.ranks import Ranks

T = TypeVar("T")

BUCKET_BYTES = 64 << 20
"""Size of the messages that gradients are sent in."""


def sum_gradients(parameters: Iterable[Tensor], ranks: Ranks) -> None:
    """Replace each parameter's gradient by its sum over all ranks.

    A gradient that exists on some ranks only counts as zeros elsewhere; one that exists nowhere stays None, so that the
    optimiser skips the parameter as it would in one process.
    """
    if ranks.size == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    exists = torch.tensor([p.grad is not None for p in trained], dtype=torch.int32, device=ranks.device)
    dist.all_reduce(exists, dist.ReduceOp.MAX)
    used = [parameter for parameter, flag in zip(trained, exists.tolist(), strict=True) if flag]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p in used if p.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def sum_over_ranks(values: Float[Tensor, ...], ranks: Ranks) -> Float[Tensor, ...]:
    """The element-wise sum of `values` over all ranks; the same tensor where there is one rank."""
    if ranks.size > 1:
        dist.all_reduce(values)
    return values


def max_over_ranks(value: int, ranks: Ranks) -> int:
    """The largest `value` of any rank, on every rank."""
    if ranks.size == 1:
        return value
    largest = torch.tensor(value, dtype=torch.int64, device=ranks.device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def lead_first(ranks: Ranks, work: Callable[[], T]) -> T:
    """Run `work` on rank 0, then on the others, which read the files that rank 0 has written: a cache, a checkpoint.

    Raises:
      UserError: rank 0 failed; rank 0 raises the original error, the others this one.
    """
    if not ranks.leads:
        if max_over_ranks(0, ranks):
            raise UserError("rank 0 has stopped the run; its message gives the reason")
        return work()
    failed = 1
    try:
        result = work()
        failed = 0
    finally:
        max_over_ranks(failed, ranks)
    return result


@contextmanager
def all_or_none(ranks: Ranks) -> Iterator[None]:
    """Stop all ranks where one fails; otherwise the others would wait for its sums.

    Raises:
      TrainingError: the device has no memory left.
      UserError: another rank failed.
    """
    try:
        yield
    except UserError:
        max_over_ranks(1, ranks)
        raise
    except torch.OutOfMemoryError as error:
        max_over_ranks(1, ranks)
        raise TrainingError(
            f"{out_of_memory(error)}; lower micro_batch_tokens, or raise gradient_checkpointing: "
            "neither changes the result of training"
        ) from error
    if max_over_ranks(0, ranks):
        raise UserError("another process has stopped the run; its message gives the reason")


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Groups of gradients of one dtype, about BUCKET_BYTES each, so that few messages carry many small tensors."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (gradient.dtype != bucket[0].dtype or size + gradient.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket

"""Variable-length attention from its definition, a query segment at a time, in place of the kernel of a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from preftree.scoring.attention import dispatch, varlen, varlen_check
from preftree.scoring.attention.varlen import Segments


def plain_varlen(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float, window: tuple[int, int]
) -> Tensor:
    """Segment n's queries see its keys, their last places being the same; the window counts keys to either side."""
    q_starts, k_starts = segments.query_starts.tolist(), segments.key_starts.tolist()
    assert segments.query_starts.dtype == segments.key_starts.dtype == torch.int32
    assert q_starts[0] == k_starts[0] == 0 and q_starts[-1] == len(query) and k_starts[-1] == len(key) == len(value)
    groups = query.shape[1] // key.shape[1]
    outputs, most_queries, most_keys = [], 0, 0
    for number in range(len(q_starts) - 1):
        q = query[q_starts[number] : q_starts[number + 1]].transpose(0, 1)
        own = slice(k_starts[number], k_starts[number + 1])
        k, v = (each[own].repeat_interleave(groups, 1).transpose(0, 1) for each in (key, value))
        most_queries, most_keys = max(most_queries, q.shape[1]), max(most_keys, k.shape[1])
        place = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
        offset = torch.arange(k.shape[1])[None, :] - place
        seen = torch.ones_like(offset, dtype=torch.bool)
        for limit, distance in zip(window, (-offset, offset)):
            if limit >= 0:
                seen &= distance <= limit
        scores = (q @ k.transpose(1, 2) * scaling).masked_fill(~seen, float("-inf"))
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
    assert (segments.most_queries, segments.most_keys) == (most_queries, most_keys)
    return torch.cat(outputs)


def use_plain_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the path runnable anywhere, in any precision."""
    every = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    monkeypatch.setattr(varlen, "_flash", plain_varlen)
    monkeypatch.setattr(varlen_check, "why_not_varlen", lambda model, precision, device: None)
    for module in (varlen_check, dispatch):
        monkeypatch.setattr(module, "KERNEL_DTYPES", every)

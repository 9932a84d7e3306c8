"""The chunked head equals log-softmax over the whole vocabulary, forward and backward."""

from __future__ import annotations

import pytest
import torch

from preftree.scoring import head
from preftree.scoring.head import HeadForm, head_logps


def naive(hidden, weight, bias, target, form):
    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = logits * form.scale
    if form.softcap is not None:
        logits = form.softcap * torch.tanh(logits / form.softcap)
    return logits.log_softmax(-1).gather(1, target[:, None])[:, 0]


def inputs(dtype: torch.dtype, *, with_bias: bool, rows: int = 37, vocabulary: int = 53):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, 16, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64) if with_bias else None
    target = torch.randint(0, vocabulary, (rows,), generator=generator)
    leaves = [None if x is None else x.to(dtype).requires_grad_() for x in (hidden, weight, bias)]
    return *leaves, target


@pytest.mark.parametrize("form", [HeadForm(), HeadForm(scale=0.3), HeadForm(softcap=2.0), HeadForm(0.5, 1.5)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk_elements", [1, 1 << 24])
def test_equals_log_softmax(form: HeadForm, with_bias: bool, chunk_elements: int, monkeypatch) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk_elements)
    monkeypatch.setattr(head, "LEAST_ROWS", 16)
    hidden, weight, bias, target = inputs(torch.float64, with_bias=with_bias)
    upstream = torch.linspace(-1, 1, len(target), dtype=torch.float64)
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    ours = head_logps(hidden, weight, bias, target, form, torch.float64)
    theirs = naive(hidden, weight, bias, target, form)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for mine, other in zip(
        torch.autograd.grad((ours * upstream).sum(), leaves), torch.autograd.grad((theirs * upstream).sum(), leaves)
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "vocabulary", "most"), [(5000, 16_000, 1048), (600, 152_000, 256), (3, 152_000, 256)])
def test_chunks_are_equal_and_as_large_as_memory_or_sense_allow(rows: int, vocabulary: int, most: int) -> None:
    found = list(head.chunks(rows, vocabulary))
    assert [one.start for one in found[1:]] == [one.stop for one in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, rows)
    sizes = {one.stop - one.start for one in found}
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1 and len(found) == -(-rows // most)


def test_gradcheck() -> None:
    hidden, weight, bias, target = inputs(torch.float64, with_bias=True, rows=5, vocabulary=7)
    form = HeadForm(0.7, 2.0)
    assert torch.autograd.gradcheck(lambda *x: head_logps(*x, target, form, torch.float64), (hidden, weight, bias))


def test_bf16_products_keep_the_targets_own_logit_exact() -> None:
    """Rounding the target's logit to bf16 costs five times the error of the mixed head."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(400, 64, generator=generator)
    weight = torch.randn(3000, 64, generator=generator) * 0.2
    target = torch.randint(0, 3000, (400,), generator=generator)
    low_hidden, low_weight = hidden.bfloat16(), weight.bfloat16()
    exact = naive(low_hidden.double(), low_weight.double(), None, target, HeadForm())
    ours = head_logps(low_hidden.float(), low_weight.float(), None, target, HeadForm(), torch.bfloat16)
    rounded = (low_hidden @ low_weight.T).float().log_softmax(-1).gather(1, target[:, None])[:, 0]
    error, error_of_rounding = (ours - exact).abs().mean(), (rounded - exact).abs().mean()
    assert error < error_of_rounding / 4
    assert ours.dtype == torch.float32


def test_no_rows() -> None:
    hidden, weight, _, _ = inputs(torch.float32, with_bias=False)
    out = head_logps(hidden[:0], weight, None, torch.zeros(0, dtype=torch.int64), HeadForm(), torch.float32)
    out.sum().backward()
    assert out.shape == (0,)
    assert weight.grad is not None and not weight.grad.any()


@pytest.mark.gpu
def test_bf16_products_accumulate_in_fp32_on_cuda() -> None:
    hidden, weight, bias, target = inputs(torch.bfloat16, with_bias=True, rows=64, vocabulary=1000)
    wide = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight, bias)]
    exact = naive(*wide, target, HeadForm())
    moved = [leaf.detach().float().cuda().requires_grad_() for leaf in (hidden, weight, bias)]
    ours = head_logps(*moved, target.cuda(), HeadForm(), torch.bfloat16)
    torch.testing.assert_close(ours.double().cpu(), exact.detach(), rtol=0, atol=1e-4)
    for mine, other in zip(torch.autograd.grad(ours.sum(), moved), torch.autograd.grad(exact.sum(), wide)):
        assert (mine.double().cpu() - other).norm() <= 1e-2 * other.norm()

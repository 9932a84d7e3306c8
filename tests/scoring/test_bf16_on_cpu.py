"""bf16 products in fp32: what torch's own bf16 gives, for a fraction of the time."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from preftree.scoring import bf16_on_cpu as products
from preftree.scoring.bf16_on_cpu import emulate_linears, operand
from preftree.scoring.scorer import Scorer
from support.models import random_sequences, tiny

ULP = 2.0**-8
"""The largest relative distance of neighbours in bf16; rounding alone is half of it."""


@pytest.fixture
def emulating(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that has no instructions for bf16."""
    monkeypatch.setattr(products, "_has_kernels", lambda: False)


def layer(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made = {"bias": lambda: nn.Linear(48, 32), "plain": lambda: nn.Linear(48, 32, bias=False)}
    return Conv1D(32, 48) if kind == "conv1d" else made[kind]()


def through(module: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output under autocast; gradients of input and parameters."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    out.float().square().sum().backward()
    return out, [one.grad for one in (x, *module.parameters())]  # pyright: ignore[reportReturnType]  # each has one


@pytest.mark.usefixtures("emulating")
@pytest.mark.parametrize("kind", ["bias", "plain", "conv1d"])
def test_a_layer_is_torchs_own_up_to_the_order_of_sums(kind: str) -> None:
    plain = layer(kind)
    fast = copy.deepcopy(plain)
    emulate_linears(nn.ModuleList([fast]))
    x = torch.randn(5, 7, 48, generator=torch.Generator().manual_seed(1))
    expected, slopes = through(plain, x)
    found, fast_slopes = through(fast, x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=ULP, atol=ULP / 4)
    for one, other in zip(fast_slopes, slopes, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < ULP
    with torch.autocast("cpu", enabled=False):
        assert torch.equal(fast(x), plain(x)), "without autocast nothing changes"


@pytest.mark.parametrize(
    ("machine", "library", "avx512", "amx", "native"),
    [
        ("x86_64", True, True, False, True),
        ("AMD64", True, False, True, True),
        ("x86_64", True, False, False, False),  # AVX-512 alone: the library takes bf16 and converts each number
        ("x86_64", False, True, True, False),
        ("aarch64", True, False, False, True),
        ("aarch64", False, False, False, False),
    ],
)
def test_native_products_need_instructions_and_a_library(
    monkeypatch: pytest.MonkeyPatch, machine: str, library: bool, avx512: bool, amx: bool, native: bool
) -> None:
    monkeypatch.setattr(products.platform, "machine", lambda: machine)
    monkeypatch.setattr(products, "_library_takes_bf16", lambda: library)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert products._has_kernels.__wrapped__() is native


@pytest.mark.usefixtures("emulating")
def test_operands_are_rounded() -> None:
    x = torch.randn(100)
    assert operand(x, torch.bfloat16).dtype == torch.float32
    assert torch.equal(operand(x, torch.bfloat16), x.bfloat16().float())
    assert operand(x, torch.float32) is x


def test_a_cpu_with_the_instructions_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_has_kernels", lambda: True)
    scorer = Scorer(tiny("llama"), precision="bf16")
    assert {type(module) for module in scorer.modules() if isinstance(module, nn.Linear)} == {nn.Linear}
    assert not scorer.numeric_mode.endswith("emulated")
    assert operand(torch.zeros(1), torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss", "gptj"])
def test_a_scorer_answers_as_with_torchs_own_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """gpt2: Conv1D; gemma2 and gpt_oss: attention by hand; gptj: padded rows."""
    rng = np.random.default_rng(2)
    groups = [random_sequences(rng, responses=3, prompt=9) for _ in range(3)]
    found = {}
    for kernels in (True, False):
        monkeypatch.setattr(products, "_has_kernels", lambda kernels=kernels: kernels)
        for precision in ("fp32", "bf16"):
            scorer = Scorer(tiny(name, scale=1.0), precision=precision)
            logps = scorer(scorer.lay_out(groups))
            logps.sum().backward()
            slopes = torch.cat([p.grad.flatten() for p in scorer.parameters() if p.grad is not None])
            found[kernels, precision] = logps.detach(), slopes
    (exact, exact_slopes), (own, own_slopes) = found[True, "fp32"], found[True, "bf16"]
    fast, fast_slopes = found[False, "bf16"]
    assert torch.equal(found[False, "fp32"][0], exact)
    rounding = (own - exact).norm()
    assert 0 < (fast - own).norm() < 1.5 * rounding
    assert 0 < (fast - exact).norm() < 1.5 * rounding
    assert 0 < (fast_slopes - exact_slopes).norm() < 1.5 * (own_slopes - exact_slopes).norm()


@pytest.mark.usefixtures("emulating")
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_computing_again_moves_no_bit_and_packing_rounding_alone(name: str) -> None:
    rng = np.random.default_rng(3)
    groups = [random_sequences(rng, responses=2, prompt=prompt) for prompt in (8, 21, 33)]
    plain, again = (Scorer(tiny(name), precision="bf16") for _ in range(2))
    again.checkpoint_gradients()
    logps = [scorer(scorer.lay_out(groups)) for scorer in (plain, again)]
    for each in logps:
        each.sum().backward()
    assert torch.equal(*logps)
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)  # pyright: ignore[reportArgumentType]  # each has one
    with torch.no_grad():
        alone = torch.cat([plain(plain.lay_out([group])) for group in groups])
    torch.testing.assert_close(alone, logps[0], rtol=0, atol=2e-2)


@pytest.mark.usefixtures("emulating")
def test_frozen_weights_get_no_gradient() -> None:
    scorer = Scorer(tiny("llama"), precision="bf16")
    for name, parameter in scorer.named_parameters():
        parameter.requires_grad_("layers.1.mlp.down_proj" in name)
    scorer(scorer.lay_out([random_sequences(np.random.default_rng(4), responses=2, prompt=5)])).sum().backward()
    given = [name for name, parameter in scorer.named_parameters() if parameter.grad is not None]
    assert given == ["model.model.layers.1.mlp.down_proj.weight"]

"""bf16 matrix products on a CPU without bf16 instructions.

There torch multiplies bf16 matrices one number at a time, about 80 times as slowly as fp32 ones. The product of two
bf16 numbers is exact in fp32: rounding the operands to bf16, multiplying in fp32 and rounding the result equals the
result of hardware that sums in fp32, up to the order of the sums. It takes a little longer than fp32 alone.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D


def emulated(device: torch.device) -> bool:
    """Whether bf16 products on `device` run in fp32 on rounded numbers."""
    return device.type == "cpu" and not _has_kernels()


@functools.cache
def _has_kernels() -> bool:
    """Whether torch hands bf16 products to a library that has instructions for them.

    On x86 the library takes bf16 on every CPU with AVX-512 and converts number by number where it lacks AVX512_BF16 and
    AMX; elsewhere its own answer is the only one.
    """
    if not _library_takes_bf16():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _library_takes_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def emulating(device: torch.device) -> bool:
    """Whether autocast is active, and its bf16 products run in fp32 on rounded numbers."""
    on = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return on and emulated(device)


def operand(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` rounded to `dtype`, in the dtype of its products: fp32 where bf16 is emulated."""
    low = x.to(dtype)
    return low.float() if dtype == torch.bfloat16 and emulated(x.device) else low


def emulate_linears(model: nn.Module) -> None:
    """Emulate the bf16 products of the linear layers of `model` under autocast; without autocast nothing changes.

    Layers of other classes (quantised ones) and products outside of linear layers are unchanged.
    """
    for module in model.modules():
        # Another class, rather than hooks or a mode: it also works where activations are recomputed.
        if type(module) is nn.Linear:
            module.__class__ = _Linear
        elif type(module) is Conv1D:
            module.__class__ = _Conv1D


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        if not emulating(input.device):
            return super().forward(input)
        return _Product.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]  # apply is untyped


class _Conv1D(Conv1D):
    def forward(self, x: Tensor) -> Tensor:
        if not emulating(x.device):
            return super().forward(x)
        return _Product.apply(x, self.weight.T, self.bias)  # pyright: ignore[reportReturnType]  # apply is untyped


class _Product(torch.autograd.Function):
    """x @ weight.T + bias in bf16; gradients of fp32 inputs are fp32."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "... D"], weight: Float[Tensor, "E D"], bias: Float[Tensor, " E"] | None
    ) -> Float[Tensor, "... E"]:
        low = x.to(torch.bfloat16)
        ctx.save_for_backward(low, weight)
        ctx.dtypes = (x.dtype, weight.dtype, None if bias is None else bias.dtype)
        with torch.autocast("cpu", enabled=False):
            shift = None if bias is None else operand(bias, torch.bfloat16)
            return linear(low.float(), operand(weight, torch.bfloat16), shift).to(torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        low, weight = ctx.saved_tensors
        x_dtype, weight_dtype, bias_dtype = ctx.dtypes
        with torch.autocast("cpu", enabled=False):
            slope = grads[0].float()
            rows = slope.flatten(0, -2)
            x = (slope @ operand(weight, torch.bfloat16)).to(x_dtype) if ctx.needs_input_grad[0] else None
            w = (rows.T @ low.flatten(0, -2).float()).to(weight_dtype) if ctx.needs_input_grad[1] else None
            b = rows.sum(0).to(bias_dtype) if ctx.needs_input_grad[2] else None
        return x, w, b

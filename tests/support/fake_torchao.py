"""A stand-in for torchao's 8-bit optimiser: its names and the shape of its state, for wiring and not for arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer


class OptimState8bit(Tensor):
    """A moment in bytes; as torchao's, it looks like a tensor of floats and is none."""

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor, qmap: Tensor, signed: bool, dtype: torch.dtype) -> Any:
        return Tensor._make_wrapper_subclass(cls, codes.shape, dtype=dtype)  # pyright: ignore[reportAttributeAccessIssue]  # untyped

    def __init__(self, codes: Tensor, scale: Tensor, qmap: Tensor, signed: bool, dtype: torch.dtype) -> None:
        self.codes, self.scale, self.qmap, self.signed = codes, scale, qmap, signed

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise AssertionError(f"{func} of a moment that is none of the optimiser's business")

    def read(self) -> Tensor:
        return self.qmap[self.codes.long()] * self.scale.repeat_interleave(256).view(self.codes.shape)

    def write(self, value: Tensor) -> None:
        blocks = value.reshape(-1, 256)
        self.scale.copy_(blocks.abs().amax(1) + 1e-12)
        self.codes.copy_(torch.bucketize(blocks / self.scale[:, None], self.qmap[1:]).view(value.shape))


class AdamW8bit(Optimizer):
    """AdamW without corrections of bias or decay; its rates are tensors, as torchao's are."""

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, {"lr": torch.tensor(lr)})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            assert isinstance(group["lr"], Tensor)
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
                        state[name] = (
                            _zeros(p, signed) if p.numel() >= 4096 and p.numel() % 256 == 0 else torch.zeros_like(p)
                        )
                state["step"] += 1
                new = []
                for name, gradient, beta in (("exp_avg", p.grad, 0.9), ("exp_avg_sq", p.grad.square(), 0.999)):
                    own = state[name]
                    small = type(own) is Tensor
                    new.append((own if small else own.read()).lerp(gradient, 1 - beta))
                    (own.copy_ if small else own.write)(new[-1])
                p.sub_(group["lr"] * new[0] / (new[1].sqrt() + 1e-8))


def _zeros(p: Tensor, signed: bool) -> OptimState8bit:
    table = torch.linspace(-1.0 if signed else 0.0, 1.0, 256)
    zero = int(table.abs().argmin())
    return OptimState8bit(
        torch.full(p.shape, zero, dtype=torch.uint8), torch.zeros(p.numel() // 256), table, signed, p.dtype
    )


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put it where torchao would be."""
    for name in ("torchao", "torchao.optim", "torchao.optim.subclass_8bit"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(AdamW8bit=AdamW8bit, OptimState8bit=OptimState8bit)
        monkeypatch.setitem(sys.modules, name, module)

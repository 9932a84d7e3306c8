"""LM head on scored tokens alone: from hidden states to log-probs, without logits over a sequence.

Shape suffixes: S scored predictions, D model width, V vocabulary.

Logits exist one chunk of rows at a time, forward and backward. Precision: sums over the vocabulary run in fp32
(float64 for float64 models); with bf16 products the target's own logit is recomputed as an fp32 dot product:
rounding it to bf16 would cost up to 4e-3 nats a token, while rounding averages out in the normaliser.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from preftree.errors import ModelError
from preftree.models.adapters import effective_weight
from preftree.scoring.bf16_on_cpu import operand

CHUNK_ELEMENTS = 1 << 24
"""Most logits alive at once: 64 MiB in fp32."""

LEAST_ROWS = 256
"""Fewest rows of logits in a chunk, even where CHUNK_ELEMENTS would allow only fewer.

In smaller chunks, reading the weight and adding to its gradient takes time that is noticeable beside the products. With
152,000 words chunks of 110 rows took 7 % longer on two CPU cores; a GPU has less bandwidth for its arithmetic."""

KEPT_ELEMENTS = 1 << 24
"""Most log-probs that are kept for the backward; it recomputes the others."""


@dataclass(frozen=True, slots=True)
class HeadForm:
    """Operations of an architecture between the product with the LM head's weight and the softmax.

    Attributes:
      scale: Factor on the logits.
      softcap: Logits become softcap * tanh(logits / softcap); None for no capping.
    """

    scale: float = 1.0
    softcap: float | None = None


def form_of_config(model: PreTrainedModel) -> HeadForm:
    """The head's form by the names in the configuration, which `probe.find_form` tries first.

    Gemma caps, Cohere multiplies, Granite divides.
    """
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return HeadForm(scale, float(softcap) if softcap else None)


def head_parameters(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """Weight [V, D] and bias [V] of the model's output layer, with an adapter's update in the weight.

    Raises:
      ModelError: the model has no linear output layer, or an adapter on it other than plain LoRA.
    """
    head = model.get_output_embeddings()
    if head is None or not isinstance(getattr(head, "weight", None), Tensor):
        raise ModelError(f"{type(model).__name__} has no linear LM head to score with; use a causal language model")
    return effective_weight(head), getattr(head, "bias", None)  # pyright: ignore[reportReturnType]  # Module attributes are untyped


def backbone_of(model: PreTrainedModel) -> nn.Module:
    """The part of a model below its head, which gives hidden states.

    Raises:
      ModelError: the model has no such part.
    """
    backbone = model.base_model
    if backbone is model:  # named otherwise than its class says
        backbone = getattr(model, "model", model)
    if backbone is model or not isinstance(backbone, nn.Module):
        raise ModelError(f"{type(model).__name__} has no backbone apart from its head")
    return backbone


def head_logps(
    hidden_SD: Float[Tensor, "S D"],
    weight_VD: Float[Tensor, "V D"],
    bias_V: Float[Tensor, " V"] | None,
    target_S: Int[Tensor, " S"],
    form: HeadForm,
    product_dtype: torch.dtype,
) -> Float[Tensor, " S"]:
    """Log-prob of each target under softmax(form(hidden @ weight.T + bias)).

    Args:
      hidden_SD: Final hidden states of the predicting tokens.
      weight_VD: The LM head's weight.
      bias_V: Its bias, if any.
      target_S: Token id scored at each row.
      form: Scaling and capping of the logits.
      product_dtype: Dtype of the three matrix products: bfloat16, float32 or float64.
    Returns:
      Nats, fp32 (float64 for float64 products), [S].
    """
    room = KEPT_ELEMENTS if torch.is_grad_enabled() else 0
    return _HeadLogps.apply(hidden_SD, weight_VD, bias_V, target_S, form, product_dtype, room)  # pyright: ignore[reportReturnType]  # apply is untyped


def head_logits(
    hidden_SD: Float[Tensor, "S D"],
    weight_VD: Float[Tensor, "V D"],
    bias_V: Float[Tensor, " V"] | None,
    form: HeadForm,
    product_dtype: torch.dtype,
) -> Float[Tensor, "S V"]:
    """Logits of a few rows, in fp32 (float64 for float64 products); `chunks` gives such slices of rows."""
    wide = _sum_dtype(product_dtype)
    return _logits(operand(hidden_SD, product_dtype), operand(weight_VD, product_dtype), bias_V, form, wide)


class _HeadLogps(torch.autograd.Function):
    """Log-probs of targets; keeps those of the vocabulary for the backward up to a limit, and for further rows only the
    normaliser, from which the backward recomputes them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        form: HeadForm,
        dtype: torch.dtype,
        room: int,
    ) -> Tensor:
        wide = _sum_dtype(dtype)
        logps = torch.empty(len(target), dtype=wide, device=hidden.device)
        normaliser = torch.empty_like(logps)
        low = operand(weight, dtype)
        kept: list[Tensor] = []
        for rows in chunks(len(target), len(weight)):
            column = target[rows, None]
            logits = _logits(operand(hidden[rows], dtype), low, bias, form, wide)
            all_logps = logits.log_softmax(1)
            logp = all_logps.gather(1, column)[:, 0]
            normaliser[rows] = logits.gather(1, column)[:, 0] - logp
            if dtype != wide:
                logit = (hidden[rows].to(wide) * weight.index_select(0, target[rows]).to(wide)).sum(1)
                logp = shape_logits(logit if bias is None else logit + bias[target[rows]], form) - normaliser[rows]
            logps[rows] = logp
            room -= all_logps.numel()
            if room >= 0:
                kept.append(all_logps)
        ctx.save_for_backward(hidden, weight, bias, target, normaliser, *kept)
        ctx.form, ctx.dtype, ctx.wide = form, dtype, wide
        return logps

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, normaliser, *kept = ctx.saved_tensors
        (grad,) = grads
        form, dtype, wide = ctx.form, ctx.dtype, ctx.wide
        sums = HeadGrads(hidden, weight, bias, form, dtype, ctx.needs_input_grad)
        for number, rows in enumerate(chunks(len(target), len(weight))):
            g = grad[rows].to(wide)
            if number < len(kept):
                all_logps = kept[number]
            else:
                logits = _logits(operand(hidden[rows], dtype), sums.low, bias, form, wide)
                all_logps = logits.sub_(normaliser[rows, None])
            logits = None if form.softcap is None else all_logps + normaliser[rows, None]
            # Kept log-probs are not overwritten, since a backward may run twice over one graph.
            d = all_logps.exp() if number < len(kept) else all_logps.exp_()
            d.mul_(-g[:, None])
            d.scatter_add_(1, target[rows, None], g[:, None])
            sums.add(rows, d, logits)
        return (*sums.finish(), None, None, None, None)


class HeadGrads:
    """Gradients of hidden states, weight and bias, added up chunk by chunk from the slopes of the logits."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        form: HeadForm,
        dtype: torch.dtype,
        needs: Sequence[bool],
    ) -> None:
        """Zero gradients for the inputs that `needs` selects; products in `dtype`, sums in fp32 or float64."""
        wide = _sum_dtype(dtype)
        self.low = operand(weight, dtype)
        self._inputs, self._form, self._dtype = (hidden, weight, bias), form, dtype
        self._hidden = torch.empty_like(hidden) if needs[0] else None
        self._weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if needs[1] else None
        self._bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if bias is not None and needs[2] else None

    def add(self, rows: slice, d: Float[Tensor, "s V"], logits: Float[Tensor, "s V"] | None) -> None:
        """Add the slopes `d` of the final logits of a chunk, which are overwritten; `logits` where they are capped."""
        if logits is not None and self._form.softcap is not None:
            d *= 1 - (logits / self._form.softcap).square()
        if self._form.scale != 1.0:
            d *= self._form.scale
        if self._bias is not None:
            self._bias += d.sum(0)
        d = operand(d, self._dtype)
        hidden = self._inputs[0][rows]
        if self._hidden is not None:
            self._hidden[rows] = (d @ self.low).to(hidden.dtype)
        if self._weight is not None:
            self._weight += d.T @ operand(hidden, self._dtype)

    def finish(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of (hidden, weight, bias), each in the dtype of its input; None where not needed."""
        sums = (self._hidden, self._weight, self._bias)
        pairs = zip(sums, self._inputs, strict=True)
        hidden, weight, bias = (None if g is None or x is None else g.to(x.dtype) for g, x in pairs)
        return hidden, weight, bias


def _sum_dtype(product_dtype: torch.dtype) -> torch.dtype:
    """Dtype of sums over the vocabulary."""
    return torch.float64 if product_dtype == torch.float64 else torch.float32


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, form: HeadForm, wide: torch.dtype) -> Tensor:
    logits = _product(hidden, weight, wide)
    if bias is not None:
        logits = logits + bias
    return shape_logits(logits, form)


def _product(hidden: Tensor, weight: Tensor, wide: torch.dtype) -> Tensor:
    """hidden @ weight.T in `wide`: accumulated in `wide` on CUDA; elsewhere a bf16 product that is converted."""
    if hidden.is_cuda and hidden.dtype != wide:
        return torch.mm(hidden, weight.T, out_dtype=wide)
    return (hidden @ weight.T).to(wide)


def shape_logits(logits: Tensor, form: HeadForm) -> Tensor:
    """Scale and cap products with the head's weight."""
    if form.scale != 1.0:
        logits = logits * form.scale
    if form.softcap is not None:
        logits = form.softcap * torch.tanh(logits / form.softcap)
    return logits


def chunks(num_rows: int, vocabulary: int) -> Iterator[slice]:
    """Slices of rows with logits in memory at the same time.

    The chunks are of equal length: a remainder of a few rows would take another matrix kernel, with other last bits.
    """
    if num_rows == 0:
        return
    most = max(CHUNK_ELEMENTS // vocabulary, LEAST_ROWS)
    number = -(-num_rows // most)
    for index in range(number):
        yield slice(num_rows * index // number, num_rows * (index + 1) // number)

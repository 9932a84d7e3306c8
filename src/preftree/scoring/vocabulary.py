"""Figures of the next-token distribution over the whole vocabulary, a tile of logits at a time.

Shape suffixes as in head.py; I incidences of a prediction and a response.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.errors import ModelError
from preftree.scoring.head import HeadForm, HeadGrads, chunks, head_logits, head_logps, head_parameters
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TreeBatch

ActiveScorer: TypeAlias = Callable[[], AbstractContextManager[Scorer]]
"""A frozen model that scores beside the policy; it may be the policy itself with its adapter off."""


@dataclass(frozen=True, eq=False, slots=True)
class Head:
    """A model's LM head and the hidden states of a batch.

    Attributes:
      hidden_SD: Final hidden states of the predicting tokens.
      weight_VD: The head's weight.
      bias_V: Its bias, if any.
      form: Scaling and capping of the logits.
      product: Dtype of the matrix products.
    """

    hidden_SD: Float[Tensor, "S D"]
    weight_VD: Float[Tensor, "V D"]
    bias_V: Float[Tensor, " V"] | None
    form: HeadForm
    product: torch.dtype

    def logps(self, target_S: Int[Tensor, " S"]) -> Float[Tensor, " S"]:
        """Log-prob of each target, nats; differentiable in hidden states, weight and bias."""
        return head_logps(self.hidden_SD, self.weight_VD, self.bias_V, target_S, self.form, self.product)

    def all_logps(self, rows: slice) -> Float[Tensor, "s V"]:
        """Log-probs of the whole vocabulary at a few rows, nats."""
        hidden = self.hidden_SD[rows]
        return head_logits(hidden, self.weight_VD, self.bias_V, self.form, self.product).log_softmax(1)


def head_of(scorer: Scorer, batch: TreeBatch) -> Head:
    """A model's LM head with the hidden states that predict a batch's scored tokens.

    Raises:
      ModelError: a sequence is longer than the model has positions for.
    """
    weight, bias = head_parameters(scorer.model)
    return Head(scorer.hidden(batch), weight, bias, scorer.head, scorer.product)


def head_entropy(head: Head) -> Float[Tensor, " S"]:
    """-sum_v p(v) log p(v) at each row, nats; differentiable in hidden states, weight and bias."""
    return _Entropy.apply(head.hidden_SD, head.weight_VD, head.bias_V, head)  # pyright: ignore[reportReturnType]  # apply is untyped


def head_collision(head: Head) -> Float[Tensor, " S"]:
    """log sum_v p(v)^2 at each row, detached: the log-probability that two independent draws are the same token."""
    with torch.no_grad():
        parts = [(2 * head.all_logps(rows)).logsumexp(1) for rows in chunks(len(head.hidden_SD), len(head.weight_VD))]
    return torch.cat(parts)


def reference_kl(policy: Head, ref: Head) -> Float[Tensor, " S"]:
    """KL(ref || policy) of the next-token distribution at each row, nats; differentiable in the policy only.

    Raises:
      ModelError: the models have vocabularies of different size.
    """
    sizes = len(policy.weight_VD), len(ref.weight_VD)
    if sizes[0] != sizes[1]:
        raise ModelError(f"a KL needs models with one vocabulary, and these have {sizes[0]} and {sizes[1]} tokens")
    return _ReferenceKl.apply(policy.hidden_SD, policy.weight_VD, policy.bias_V, policy, ref)  # pyright: ignore[reportReturnType]  # apply is untyped


class _Entropy(torch.autograd.Function):
    """Entropy; keeps nothing over the vocabulary, since the backward recomputes each tile of logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Tensor:
        parts = []
        for rows in chunks(len(hidden), len(weight)):
            logps = head.all_logps(rows)
            parts.append(-(logps.exp() * logps).sum(1))
        entropy = torch.cat(parts) if parts else hidden.new_zeros(0)
        ctx.save_for_backward(hidden, weight, bias, entropy)
        ctx.form, ctx.product = head.form, head.product
        return entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, entropy = ctx.saved_tensors
        (grad,) = grads
        sums = HeadGrads(hidden, weight, bias, ctx.form, ctx.product, ctx.needs_input_grad)
        for rows in chunks(len(hidden), len(weight)):
            logits = head_logits(hidden[rows], weight, bias, ctx.form, ctx.product)
            logps = logits.log_softmax(1)
            d = (logps + entropy[rows, None]).mul_(logps.exp()).mul_(-grad[rows, None])
            sums.add(rows, d, None if ctx.form.softcap is None else logits)
        return (*sums.finish(), None)


class _ReferenceKl(torch.autograd.Function):
    """KL; keeps nothing over the vocabulary, since the backward recomputes each tile of both models' logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, policy: Head, ref: Head) -> Tensor:
        parts = []
        for rows in chunks(len(hidden), 2 * len(weight)):
            ref_logps = ref.all_logps(rows)
            parts.append((ref_logps.exp() * (ref_logps - policy.all_logps(rows))).sum(1))
        ctx.save_for_backward(hidden, weight, bias, ref.hidden_SD, ref.weight_VD, ref.bias_V)
        ctx.forms = (policy.form, policy.product, ref.form, ref.product)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ref_hidden, ref_weight, ref_bias = ctx.saved_tensors
        form, product, ref_form, ref_product = ctx.forms
        ref = Head(ref_hidden, ref_weight, ref_bias, ref_form, ref_product)
        (grad,) = grads
        sums = HeadGrads(hidden, weight, bias, form, product, ctx.needs_input_grad)
        for rows in chunks(len(hidden), 2 * len(weight)):
            logits = head_logits(hidden[rows], weight, bias, form, product)
            d = logits.softmax(1).sub_(ref.all_logps(rows).exp_()).mul_(grad[rows, None])
            sums.add(rows, d, None if form.softcap is None else logits)
        return (*sums.finish(), None, None)


class TokenFigures(NamedTuple):
    """Figures of the scored tokens of a batch, response after response and in token order, [I].

    Attributes:
      policy: Log-prob under the policy, nats; carries gradient.
      ref: Log-prob under the live reference, nats; None without one.
      kl: KL(reference || policy) over the vocabulary, nats; carries gradient; None if not requested.
      confidence: log p(token) - log sum_v p(v)^2 under the policy, detached; None if not requested.
    """

    policy: Float[Tensor, " I"]
    ref: Float[Tensor, " I"] | None
    kl: Float[Tensor, " I"] | None
    confidence: Float[Tensor, " I"] | None


def token_figures(
    scorer: Scorer, batch: TreeBatch, *, live: ActiveScorer | None = None, kl: bool = False, confidence: bool = False
) -> TokenFigures:
    """Score a batch and compute the requested figures; each model runs once.

    Args:
      scorer: The policy.
      batch: Trees, laid out for both models.
      live: The reference, where it scores beside the policy.
      kl: Whether to compute the divergence of the reference from the policy.
      confidence: Whether to compute the policy's confidence.
    Raises:
      ModelError: the models have vocabularies of different size, or a sequence is too long for one.
    """
    if len(batch.source_S) == 0:
        empty = scorer(batch)  # part of the graph, so that every rank's backward visits every parameter
        ref = empty.detach() if live else None
        return TokenFigures(empty, ref, empty if kl else None, empty if confidence else None)
    if live is None and not confidence:
        return TokenFigures(scorer(batch), None, None, None)
    ref_head = ref_logps = divergence = sureness = None
    if live is not None:
        with torch.no_grad(), live() as reference:
            ref_head = head_of(reference, batch)
    policy = head_of(scorer, batch)
    logps = policy.logps(batch.target_S)
    if ref_head is not None:
        with torch.no_grad():
            ref_logps = ref_head.logps(batch.target_S)
        if kl:
            divergence = reference_kl(policy, ref_head)
    if confidence:
        sureness = logps.detach() - head_collision(policy)
    figures = (logps, ref_logps, divergence, sureness)
    return TokenFigures(*(None if x is None else x.index_select(0, batch.prediction_I) for x in figures))  # pyright: ignore[reportArgumentType]  # the first is always there


def token_divergence(policy: Scorer, reference: Scorer, batch: TreeBatch) -> Float[Tensor, " I"]:
    """KL(policy || reference) of the next-token distribution at every scored token, without a gradient.

    Summed over a response that the policy sampled, and averaged over responses, it estimates the KL of whole responses
    with less variance than the difference of log-probs: at each token the expectation over the vocabulary is exact.

    Args:
      policy: Model of the distribution of the expectation.
      reference: The other model.
      batch: Trees of responses, laid out for both models.
    Returns:
      Nats, response after response and in token order, [I].
    Raises:
      ModelError: the models have vocabularies of different size, or a sequence is too long for one.
    """
    if len(batch.source_S) == 0:
        return torch.zeros(0, dtype=policy.dtype, device=policy.device)
    with torch.no_grad():
        return reference_kl(head_of(reference, batch), head_of(policy, batch)).index_select(0, batch.prediction_I)

"""Scorer of a causal language model: packed trees in, token log-probs out.

Shape suffixes as in tree/layout.py; D is the model's width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from preftree.errors import ModelError
from preftree.models.quantize import quantization_of
from preftree.scoring.architecture import best_path, long_angles_from, position_limit, why_not_tree
from preftree.scoring.attention.dispatch import IMPLEMENTATION
from preftree.scoring.attention.types import AttentionPath, TreeMask
from preftree.scoring.attention.varlen_check import require_varlen
from preftree.scoring.bf16_on_cpu import emulate_linears, emulated
from preftree.scoring.compile import limit_recompilation, recompute_fused
from preftree.scoring.head import HeadForm, backbone_of, head_logps, head_parameters
from preftree.scoring.probe import OwnForward, find_form, recorded_windows, run_own_forward, same_logps
from preftree.scoring.split_batch import split_by_depth
from preftree.tree.layout import Sharing, TokenSequence, TreeBatch, batch_trees, grow_tree
from preftree.tree.to_device import send

Precision = Literal["fp32", "bf16"]

_log = logging.getLogger(__name__)


class Scorer(nn.Module):
    """A causal LM that computes the log-probs of a batch's scored tokens.

    The head runs on scored tokens alone, and no method returns logits. A model that cannot attend over trees takes the
    same batch type with one branch per tree, padded into rows; see `shares_prefixes`.

    Attributes:
      model: The language model; the scorer has no other parameters.
      precision: `fp32` computes in the dtype of the weights, `bf16` under autocast; the weights keep their dtype.
      shares_prefixes: Whether a shared prefix is computed once.
      attention: The attention path in use; `rows` where the model takes padded rows, `own` where it takes one row at a
        time in its own forward, whose logits are not computed from hidden states.
      head: Scaling and capping of the logits.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        precision: Precision = "fp32",
        attention: Literal["auto", "sdpa", "flex", "varlen"] = "auto",
    ) -> None:
        super().__init__()
        self.model = model
        self.precision: Precision = precision
        self.check_head()
        self._limit, self._switch = position_limit(model, kinds=("dynamic",)), long_angles_from(model)
        self._compiled = False
        self._windows: dict[nn.Module, int | None] = {}
        self.head, self.shares_prefixes = HeadForm(), False
        self.attention: Literal["sdpa", "flex", "varlen", "rows", "own"] = "rows"
        if attention == "varlen":
            require_varlen(model, precision, why_not_tree(model))
        with evaluation_mode(model):
            reason = self._choose_layout()
        if attention == "varlen":
            require_varlen(model, precision, reason)
        if reason is None:
            self.attention = best_path(model, self.device) if attention == "auto" else attention
        else:
            _log.warning("%s: %s; prompts are computed once per response.", type(model).__name__, reason)
        if precision == "bf16" and emulated(self.device):
            _log.warning(
                "This CPU has no bf16 instructions: products are computed in fp32 from numbers rounded to bf16; "
                "precision=fp32 is more exact and faster here."
            )
            emulate_linears(model)

    def _choose_layout(self) -> str | None:
        """Set head, windows and layout, each tried on a few tokens; the reason where prefixes cannot be shared.

        Raises:
          ModelError: the model's own forward fails, is not finite or not causal.
        """
        if self.model.config._attn_implementation == IMPLEMENTATION:  # of another scorer of this model
            self.model.set_attn_implementation("sdpa" if getattr(self.model, "_supports_sdpa", False) else "eager")
        own = run_own_forward(self.model)
        form = self._form(own)
        precision, self.precision = self.precision, "fp32"
        try:
            if form is None:
                self.attention = "own"
                return "its logits are not computed from its hidden states in a way that is known"
            self.head = form
            reason = why_not_tree(self.model)
            if reason is None:
                self._windows, reason = recorded_windows(self.model)
            if reason is None:
                before = self.model.config._attn_implementation or "eager"
                self.attention, self.shares_prefixes = "sdpa", True
                if self._uses_trees() and self._agrees(own):
                    return None
                reason = "it gives other log-probs on trees than in its own forward"
                self.model.set_attn_implementation(before)
            self.attention, self.shares_prefixes = "rows", False
            if not self._agrees(own):
                self.attention = "own"
                reason += ", and on padded rows"
            return reason
        finally:
            self.precision = precision

    def _uses_trees(self) -> bool:
        """Whether the model takes the attention over trees."""
        try:
            self.model.set_attn_implementation(IMPLEMENTATION)
        except Exception:  # a model made of several may refuse it in any way
            return False
        return self.model.config._attn_implementation == IMPLEMENTATION

    def _form(self, own: OwnForward) -> HeadForm | None:
        return find_form(self.model, own)

    def _agrees(self, own: OwnForward) -> bool:
        try:
            with torch.no_grad():
                return same_logps(self(self.lay_out([own.sequences()])), own, self.model.dtype)
        except Exception:  # a layer that takes no tree, or no padding
            _log.debug("%s fails in this layout", type(self.model).__name__, exc_info=True)
            return False

    def check_head(self) -> None:
        """Refuse a model that has no LM head.

        Raises:
          ModelError: the model has none.
        """
        head_parameters(self.model)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the log-probs: float64 for a float64 model, else fp32."""
        return torch.float64 if self.model.dtype == torch.float64 else torch.float32

    @property
    def numeric_mode(self) -> str:
        """Everything in this scorer that can change a log-prob, except the weights; a part of the reference's key."""
        mode = f"{self.device.type}/{str(self.model.dtype).removeprefix('torch.')}/{self.precision}/{self.attention}"
        quantization = quantization_of(self.model)
        emulates = self.precision == "bf16" and emulated(self.device)
        parts = [quantization, "emulated" if emulates else None, "compiled" if self._compiled else None]
        return "/".join([mode, *filter(None, parts)])

    def checkpoint_gradients(self, share: float = 1.0) -> None:
        """Keep only the input of some layers for the backward, which recomputes their activations.

        Memory falls and time grows with the share; the gradient is the same to the last bit. Call it before
        `compile_layers`.

        Args:
          share: Share of the layers, in (0, 1], rounded up to whole layers; they are spread evenly.
        Raises:
          ModelError: the model does not support it.
        """
        assert not self._compiled, "compile_layers has to know which layers are computed again"
        layers = self._layers()
        if not self.model.supports_gradient_checkpointing or not layers:
            raise ModelError(f"{type(self.model).__name__} does not support gradient checkpointing")
        # transformers 5.23 renamed the method, and warns about the old name.
        enable = getattr(self.model, "activation_checkpointing_enable", self.model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
        # transformers checkpoints only layers in training mode; dropout is off, so the mode changes nothing else.
        for index in spread(len(layers), share):
            layers[index].training = True

    def compile_layers(self) -> None:
        """Fuse the operations between the matrix products of a layer: less time and memory, for a slow first step.

        Attention is not compiled. Sums within a fused kernel run in another order, so compilation is part of the
        numeric mode.

        Raises:
          ModelError: the layers are not of a class of transformers that can be recognised.
        """
        layers = self._layers()
        if not layers:
            raise ModelError(f"{type(self.model).__name__} has no layers that can be compiled; leave compile out")
        limit_recompilation()
        for layer in layers:
            if layer.training:
                # A checkpoint that contains a graph break would run uncompiled if compiled from outside.
                layer._gradient_checkpointing_func = recompute_fused  # pyright: ignore[reportArgumentType]  # untyped there
            else:
                layer.compile(dynamic=True)
        self._compiled = True

    def _layers(self) -> list[GradientCheckpointingLayer]:
        return [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]

    @property
    def sharing(self) -> Sharing:
        """What sequences may share in the trees of this model."""
        return Sharing(self.shares_prefixes, self._switch)

    def lay_out(self, groups: Sequence[Sequence[TokenSequence]]) -> TreeBatch:
        """One tree per group (per sequence where prefixes cannot be shared), on the scorer's device.

        A group with responses of both kinds of angles of a longrope model is several trees.
        """
        if not self.shares_prefixes:
            groups = [[sequence] for group in groups for sequence in group]
        return batch_trees([grow_tree(group, switch=self._switch) for group in groups]).to(self.device)

    def forward(self, batch: TreeBatch) -> Float[Tensor, " I"]:
        """Log-probs of the scored tokens, response after response and in token order.

        Returns:
          Nats, fp32 (float64 for a float64 model), [I], in the order of `batch.prediction_I`.
        Raises:
          ModelError: a sequence is longer than the model has positions for.
        """
        weight, bias = head_parameters(self.model)
        if len(batch.source_S) == 0:
            self._check_depth(batch)
            # Part of the graph, so that every rank's backward visits every parameter.
            parameters = (weight, *self.parameters())
            anchor = next((parameter for parameter in parameters if parameter.requires_grad), weight)
            return anchor.sum(dtype=self.dtype) * torch.zeros(0, dtype=self.dtype, device=self.device)
        if self.attention == "own":
            return self._own_logps(batch).index_select(0, batch.prediction_I)
        logps_S = head_logps(self.hidden(batch), weight, bias, batch.target_S, self.head, self.product)
        return logps_S.index_select(0, batch.prediction_I)

    def hidden(self, batch: TreeBatch) -> Float[Tensor, "S D"]:
        """Final hidden state at the source of each scored prediction, [S, D].

        Raises:
          ModelError: a sequence is longer than the model has positions for.
        """
        self._check_depth(batch)
        if self.attention == "own":
            raise ModelError(
                f"the logits of {type(self.model).__name__} are not computed from its hidden states in a way that is "
                "known, so it gives log-probs alone: leave out what reads the whole vocabulary, or another head"
            )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            compute = self._rows if self.attention == "rows" else self._tree
            if self._switch is None:
                hidden_TD = compute(batch)
            else:
                parts = split_by_depth(batch, self._switch)
                hidden_TD = torch.cat([compute(part) for _, part in parts])
                hidden_TD = hidden_TD.index_select(0, torch.cat([index for index, _ in parts]).argsort())
        # index_select, not h[...]: the backward of indexing is nondeterministic where several targets share a source.
        return hidden_TD.index_select(0, batch.source_S)

    @property
    def product(self) -> torch.dtype:
        """Dtype of the matrix products of the head."""
        return torch.bfloat16 if self.precision == "bf16" else self.model.dtype

    def _backbone(self, **inputs: object) -> Float[Tensor, "B L D"]:
        return backbone_of(self.model)(use_cache=False, **inputs).last_hidden_state

    def _own_logps(self, batch: TreeBatch) -> Float[Tensor, " S"]:
        """Log-prob of each prediction by the model's own forward, one row at a time."""
        self._check_depth(batch)
        places, logps = [], []
        for branch in batch.branches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = self.model(input_ids=batch.input_T[None, branch.start : branch.stop], use_cache=False).logits
            inside = (batch.source_S >= branch.start) & (batch.source_S < branch.stop)
            place = inside.nonzero()[:, 0]
            every = logits[0].to(self.dtype).log_softmax(-1).index_select(0, batch.source_S[place] - branch.start)
            logps.append(every.gather(1, batch.target_S[place, None])[:, 0])
            places.append(place)
        return torch.cat(logps).index_select(0, torch.cat(places).argsort())

    def _tree(self, batch: TreeBatch) -> Float[Tensor, "T D"]:
        assert self.model.config._attn_implementation == IMPLEMENTATION
        mask = TreeMask(batch, cast(AttentionPath, self.attention), self._windows)
        inputs = {"input_ids": batch.input_T[None], "position_ids": batch.position_T[None], "tree": mask}
        return self._backbone(**inputs)[0]

    def _rows(self, batch: TreeBatch) -> Float[Tensor, "T D"]:
        """Hidden states of one-branch trees as rows, padded on the right, which causal models do not attend to."""
        assert all(branch.parent < 0 for branch in batch.branches), "one branch a tree: use lay_out"
        lengths = np.array([branch.stop - branch.start for branch in batch.branches])
        real = np.arange(lengths.max()) < lengths[:, None]
        # Indices are computed on the host: a mask as an index would make the host wait for the device.
        cell_T = send(np.flatnonzero(real), self.device)
        tokens = torch.zeros(real.size, dtype=torch.int64, device=self.device).index_copy_(0, cell_T, batch.input_T)
        attention_mask = send(real.astype(np.int64), self.device)
        hidden = self._backbone(input_ids=tokens.view(real.shape), attention_mask=attention_mask)
        return hidden.flatten(0, 1).index_select(0, cell_T)

    def _check_depth(self, batch: TreeBatch) -> None:
        longest = max((branch.depth + branch.stop - branch.start for branch in batch.branches), default=0)
        if self._limit is not None and longest > self._limit:
            raise ModelError(
                f"a sequence of {longest + 1} tokens is longer than the {self._limit} positions of this model; "
                f"set max_length to at most {self._limit}"
            )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while the context lasts; afterwards each module returns to its earlier mode."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def spread(number: int, share: float) -> list[int]:
    """Evenly spaced indices below `number`, at least that share of them."""
    taken = min(number, math.ceil(share * number - 1e-9))
    return [index for index in range(number) if (index + 1) * taken // number > index * taken // number]

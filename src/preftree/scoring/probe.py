"""Choice of a layout by trial: what an architecture computes on a few tokens decides between trees and rows.

Names in a configuration say little: a head may multiply where another divides, and a window may be in the mask alone.
So a model runs once on two short rows in its own forward, and its scorer must give the same log-probs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from preftree.errors import ModelError
from preftree.models.foreign import foreign
from preftree.scoring.architecture import position_limit
from preftree.scoring.attention.dispatch import plain_attention
from preftree.scoring.head import HeadForm, backbone_of, form_of_config, head_parameters, shape_logits
from preftree.tree.layout import TokenSequence

log = logging.getLogger(__name__)

LENGTH = 14
"""Tokens of a row, where the model has positions for so many; both rows share the first four of seven."""

_TOLERANCE = {torch.float64: 2e-4, torch.float32: 2e-4}
_HALF_TOLERANCE = 0.25
_FAR = 1 << 20
_RECORDING = "preftree_recording"


@dataclass(frozen=True, eq=False, slots=True)
class OwnForward:
    """What a model's own forward gives on two rows with a shared beginning.

    Attributes:
      ids: Token ids, [2, L].
      logits: Logits, or the rewards of a reward model.
      hidden: Final hidden states; None where the backbone gives none.
    """

    ids: Int[Tensor, "2 L"]
    logits: Tensor
    hidden: Float[Tensor, "2 L D"] | None

    @property
    def shared(self) -> int:
        """Tokens that both rows begin with."""
        return self.ids.shape[1] * 4 // 7

    def logps(self) -> Float[Tensor, "2 P"]:
        """Log-prob of each token after the shared beginning."""
        wide = self.logits.to(torch.float64 if self.logits.dtype == torch.float64 else torch.float32)
        every = wide.log_softmax(-1)[:, :-1].gather(2, self.ids[:, 1:, None])[..., 0]
        return every[:, self.shared - 1 :]

    def sequences(self) -> list[TokenSequence]:
        """The rows as responses to one prompt; the second is shorter, so that rows of both need padding."""
        rows = [row.astype(np.int32) for row in self.ids.cpu().numpy()]
        rows[1] = rows[1][:-3]
        return [TokenSequence(row, np.arange(len(row)) >= self.shared) for row in rows]


def run_own_forward(model: PreTrainedModel) -> OwnForward:
    """Run a model's own forward.

    Raises:
      ModelError: it fails, gives figures that are not finite, or lets tokens see later ones.
    """
    name = type(model).__name__
    ids = _probe_ids(model)
    with torch.no_grad(), plain_attention(model):
        with foreign(f"{name} cannot compute"):
            logits = torch.cat([model(input_ids=row[None], use_cache=False).logits for row in ids])
        if not bool(logits.isfinite().all()):
            raise ModelError(
                f"{name} gives figures that are not finite; its weights are damaged, or its training diverged"
            )
        try:
            hidden = backbone_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        except Exception:  # a backbone of another form; the own forward serves then
            hidden = None
    seen = logits if logits.ndim == 3 else hidden
    own = OwnForward(ids, logits, hidden)
    if seen is not None and not _agree(seen[0, : own.shared].float(), seen[1, : own.shared].float(), model.dtype):
        raise ModelError(
            f"in {name} a token sees later ones, so it gives no log-probs of responses; use a causal language model "
            "(is_decoder in its configuration)"
        )
    return own


def find_form(model: PreTrainedModel, own: OwnForward) -> HeadForm | None:
    """The operations between the product with the head's weight and the logits; None where none give the logits.

    The configuration's names come first; then each number in it as a factor, a divisor or a cap.
    """
    if own.hidden is None:
        return None
    weight, bias = head_parameters(model)
    with torch.no_grad():
        if own.hidden.shape[-1] != weight.shape[1]:
            return None
        product = own.hidden.to(weight.dtype) @ weight.T
        product = product if bias is None else product + bias
        for form in _forms(model):
            if product.shape == own.logits.shape and _same_logps(shape_logits(product, form), own.logits, model.dtype):
                return form
    return None


def same_logps(ours: Float[Tensor, " I"], own: OwnForward, dtype: torch.dtype) -> bool:
    """Whether the scorer's log-probs of `own.sequences()` are those of the model's own forward."""
    first, second = own.logps()
    return _agree(ours, torch.cat([first, second[:-3]]).to(ours.dtype), dtype)


def same_hidden(ours: Float[Tensor, "S D"], own: Float[Tensor, "S D"], dtype: torch.dtype) -> bool:
    """Whether hidden states agree, in units of their size."""
    size = float(own.float().abs().max()) or 1.0
    return _agree(ours.float() / size, own.float() / size, dtype)


def recorded_windows(model: PreTrainedModel) -> tuple[dict[nn.Module, int | None], str | None]:
    """The window of each attention layer, by the mask that transformers gives it; and why a tree does not serve.

    Returns:
      Windows by layer, None for a layer that sees everything; a reason where a layer makes a mask of its own or has one
      of another form, else None.
    """
    before = model.config._attn_implementation or "eager"
    with _recorder() as seen, torch.no_grad():
        model.set_attn_implementation(_RECORDING)
        try:
            backbone_of(model)(input_ids=_probe_ids(model), use_cache=False)
        except Exception:  # what the scorer makes of it is compared with the model's own forward
            log.debug("the masks of %s cannot be recorded", type(model).__name__, exc_info=True)
        finally:
            model.set_attn_implementation(before)
    return seen.windows, seen.reason


class _Seen:
    """Masks that transformers has made, and the windows of the layers that got them."""

    def __init__(self) -> None:
        self.masks: dict[int, tuple[Tensor, int | None]] = {}
        self.windows: dict[nn.Module, int | None] = {}
        self.reason: str | None = None


_recorders: list[_Seen] = []


@contextmanager
def _recorder() -> Iterator[_Seen]:
    _recorders.append(_Seen())
    try:
        yield _recorders[-1]
    finally:
        _recorders.pop()


def _record_mask(*arguments: Any, **options: Any) -> Tensor:
    seen = _recorders[-1]
    mask = sdpa_mask(*arguments, **options | {"allow_is_causal_skip": False})
    assert isinstance(mask, Tensor)
    window, function = options.get("local_size"), options.get("mask_function")
    if function is not None and not _is_causal_window(function, window, mask.device):
        seen.reason = "a layer attends in chunks, or otherwise than to all tokens or the last ones"
    seen.masks[mask.untyped_storage().data_ptr()] = (mask, window)
    return mask


def _record_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    seen = _recorders[-1]
    if attention_mask is None:
        seen.windows[module] = sliding_window
    elif (known := seen.masks.get(attention_mask.untyped_storage().data_ptr())) is not None:
        seen.windows[module] = known[1]
    else:
        seen.reason = "a layer makes an attention mask of its own"
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=options.get("scaling"))[0], None


AttentionInterface.register(_RECORDING, _record_attention)
AttentionMaskInterface.register(_RECORDING, _record_mask)


def _is_causal_window(function: Any, window: int | None, device: torch.device) -> bool:
    """Whether a mask function of transformers shows the last `window` tokens, or all earlier ones."""

    def sees(query: int, key: int) -> bool:
        batch, head, q, k = (torch.tensor(index, device=device) for index in (0, 0, query, key))
        return bool(function(batch, head, q, k))

    try:
        if window is None:
            return sees(_FAR, 0) and not sees(0, 1)
        return sees(window, 1) and not sees(window, 0) and not sees(0, 1)
    except Exception:  # a function of the positions of this row; the comparison with the own forward decides
        return True


def _probe_ids(model: PreTrainedModel) -> Int[Tensor, "2 L"]:
    """Two rows with a shared beginning, without tokens that the configuration gives a meaning."""
    config = model.config.get_text_config()
    meant = {value for name, value in _numbers(model.config) if name.endswith(("token_id", "token_index"))}
    meant |= {value for name, value in _numbers(config) if name.endswith(("token_id", "token_index"))}
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None) or config.vocab_size
    plain = [token for token in range(min(int(rows), 1000)) if token not in meant] or list(range(int(rows)))
    length = min(LENGTH, position_limit(model, kinds=("dynamic",)) or LENGTH)
    shared = length * 4 // 7
    picks = np.random.default_rng(0).choice(plain, 2 * length)
    ids = torch.from_numpy(picks.astype(np.int64)).view(2, length)
    ids[1, :shared] = ids[0, :shared]
    if ids[0, shared] == ids[1, shared]:
        ids[1, shared] = next((token for token in plain if token != int(ids[0, shared])), ids[0, shared])
    return ids.to(model.device)


def _forms(model: PreTrainedModel) -> Iterator[HeadForm]:
    named = form_of_config(model)
    yield named
    yield HeadForm()
    values = sorted({abs(float(value)) for _, value in _numbers(model.config.get_text_config()) if value})
    for value in values:
        if value != 1 and math.isfinite(value):
            yield HeadForm(value, named.softcap)
            yield HeadForm(1 / value, named.softcap)
            yield HeadForm(named.scale, value)
            yield HeadForm(1.0, value)


def _numbers(config: PretrainedConfig) -> Iterator[tuple[str, float]]:
    fields: Mapping[str, Any] = config.to_dict()
    for name, value in fields.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def _same_logps(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return _agree(ours.to(wide).log_softmax(-1), theirs.to(wide).log_softmax(-1), dtype)


def _agree(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Whether figures differ by no more than rounding; infinities may be in the same places."""
    same = (ours == theirs) | ((ours - theirs).abs() <= _TOLERANCE.get(dtype, _HALF_TOLERANCE))
    return bool(same.all())

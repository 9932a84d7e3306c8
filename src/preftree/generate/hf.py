"""Sampling from a causal language model of transformers, with random numbers that do not depend on batches.

The number that decides a token depends on (seed, row, position) alone, and it is looked up in the cumulative
distribution in the order of token ids. So a row's text does not depend on how rows are batched, nor on the other rows:
in fp32 a batch moves a probability by about 1e-7, and a text changes only where a number falls that close to an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)

from preftree.errors import ConfigError, ModelError
from preftree.generate.protocol import Generation, Sampler, Sampling, cut_response, decode, first_stop
from preftree.models.beside_weights import end_tokens
from preftree.models.load import load_model
from preftree.reference.key import weights_digest_of_model
from preftree.runtime.machine import sampling_device
from preftree.scoring.architecture import long_angles_from, position_limit
from preftree.scoring.attention.dispatch import plain_attention


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch_size: int = 64,
    first_row: int = 0,
    show: Callable[[str], None] | None = None,
) -> list[Generation]:
    """One response a prompt, in the order of `prompts`; repeat a prompt for several responses.

    Args:
      model: Any causal LM of transformers; of its generation_config only the end tokens are used.
      tokenizer: Tokenizer of the model.
      prompts: Token ids of each row's prompt, rendered as in training; none may be empty.
      sampling: How responses are drawn.
      batch_size: Rows computed at once. Rows of similar length form a batch, which runs until its last row ends.
      first_row: Number of the first prompt among all rows of the job, so that a job can be cut into calls.
      show: Called with the text piece by piece as it is sampled; for a single row.
    Raises:
      ModelError: the tokenizer has no end-of-sequence token.
      ConfigError: a prompt is empty, or leaves no room for max_new_tokens within the positions of the model.
    """
    ends = end_tokens(model.generation_config, tokenizer)
    if empty := [row for row, prompt in enumerate(prompts) if not len(prompt)]:
        raise ConfigError(f"prompt {empty[0] + first_row} has no tokens; a model needs at least one, such as a BOS")
    limit, switch = position_limit(model, kinds=("dynamic",)), long_angles_from(model)
    for row, prompt in enumerate(prompts):
        length, most = len(prompt), len(prompt) + sampling.max_new_tokens - 1
        words = f"prompt {row + first_row} has {length} tokens, and with {sampling.max_new_tokens} new ones it"
        if limit is not None and most > limit:
            raise ConfigError(
                f"{words} would pass the {limit} positions of this model; lower max_new_tokens, or shorten the prompt"
            )
        if switch is not None and length <= switch < most:
            raise ConfigError(
                f"{words} would pass the {switch} beyond which this model (longrope) turns all positions by other "
                f"angles, those of the tokens before too; lower max_new_tokens to {switch - length + 1}"
            )
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    short = sum(switch is None or len(prompt) <= switch for prompt in prompts)  # the longest row decides the angles
    starts = [*range(0, short, batch_size), *range(short, len(order), batch_size)]
    results: dict[int, Generation] = {}
    with torch.inference_mode(), plain_attention(model), _without_settings(model):
        for start in starts:
            rows = order[start : min(start + batch_size, short if start < short else len(order))]
            batch = _generate_batch(
                model,
                tokenizer,
                [prompts[row] for row in rows],
                [row + first_row for row in rows],
                sampling,
                ends,
                None if show is None else _Streamer(tokenizer, show),
            )
            for row, drawn in zip(rows, batch, strict=True):
                results[row] = cut_response(tokenizer, drawn, ends, sampling.stop)
    return [results[row] for row in range(len(prompts))]


def hf_sampler(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 64) -> Sampler:
    """A model of transformers as a sampler; arguments as in `generate`."""

    def sample(prompts: Sequence[Sequence[int]], sampling: Sampling, *, first_row: int = 0) -> list[Generation]:
        return generate(model, tokenizer, prompts, sampling, batch_size=batch_size, first_row=first_row)

    return sample


def load_sampler(
    name: str, tokenizer: PreTrainedTokenizerBase, *, precision: Literal["fp32", "bf16"], batch_size: int
) -> tuple[Sampler, str]:
    """The sampler of a model's folder or hub id, on the first GPU or the CPU, and a digest of the weights."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = load_model(name, dtype=dtype, device=sampling_device())
    return hf_sampler(model, tokenizer, batch_size=batch_size), weights_digest_of_model(model)


def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    rows: list[int],
    sampling: Sampling,
    ends: list[int],
    streamer: TextStreamer | None,
) -> list[list[int]]:
    """New ids of a left-padded batch; ids after a row's end are padding."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), ends[0])
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    settings = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, eos_token_id=ends, pad_token_id=ends[0], do_sample=False, use_cache=True
    )
    out = cast(Any, model).generate(  # type checkers take the method for a buffer
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=settings,
        logits_processor=LogitsProcessorList([_Draw(sampling, rows, width)]),
        stopping_criteria=StoppingCriteriaList([_Stop(tokenizer, sampling.stop, width)] if sampling.stop else []),
        streamer=streamer,
    )
    assert isinstance(out, Tensor)
    return out[:, width:].tolist()


class _Streamer(TextStreamer):
    """Passes on text as it is sampled, whole words at a time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, show: Callable[[str], None]) -> None:
        # The base class types its tokenizer more narrowly than it needs.
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)  # pyright: ignore[reportArgumentType]
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._show(text)


class _Stop(StoppingCriteria):
    """Ends a row when its text contains a stop text; this only saves work, since `cut_response` cuts the text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], width: int) -> None:
        self.tokenizer, self.stop, self.width = tokenizer, stop, width
        # A token usually has at least one byte; where it has less, a row is sampled a little longer than necessary.
        self.tail = max(len(words.encode()) for words in stop) + 4

    # The base class has the type of tensors on the CPU.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Int[Tensor, "B L"], scores: object, **_: object
    ) -> Bool[Tensor, " B"]:
        done = [
            first_stop(decode(self.tokenizer, row[-self.tail :]), self.stop) is not None
            and first_stop(decode(self.tokenizer, row), self.stop) is not None
            for row in input_ids[:, self.width :].tolist()
        ]
        return torch.tensor(done, device=input_ids.device)


class _Draw(LogitsProcessor):
    """Gives all probability of a row to the token that is drawn; greedy decoding then takes it."""

    def __init__(self, sampling: Sampling, rows: list[int], width: int) -> None:
        self.sampling, self.width = sampling, width
        self.rows = np.array(rows, np.uint64)

    def __call__(self, input_ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        if bool((scores.isnan() | (scores == torch.inf)).any()):
            row = int((scores.isnan() | (scores == torch.inf)).any(1).int().argmax())
            raise ModelError(
                f"the model gives logits that are not finite for prompt {int(self.rows[row])}; its weights are damaged "
                "or its training diverged: train it again with a lower lr"
            )
        if self.sampling.temperature == 0:
            return scores
        u = uniforms(self.sampling.seed, self.rows, input_ids.shape[1] - self.width)
        logits = scores.cpu() if scores.device.type == "mps" else scores  # Apple GPUs have no float64
        chosen = draw(logits, torch.from_numpy(u).to(logits.device), self.sampling.temperature, self.sampling.top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None].to(scores.device), 0.0)


def draw(logits: Float[Tensor, "B V"], u: Float[Tensor, " B"], temperature: float, top_p: float) -> Int[Tensor, " B"]:
    """The token at height `u` of each row's cumulative distribution over tokens in the order of their ids.

    Args:
      logits: One row a response.
      u: Uniform numbers in [0, 1), float64.
      temperature: Divisor of the logits, > 0.
      top_p: Mass that the remaining tokens hold; the fewest remain, at equal probability those of lower id.
    """
    mass = (logits.double() / temperature).softmax(-1)
    if top_p < 1:
        falling, order = mass.sort(dim=-1, descending=True, stable=True)
        before = falling.cumsum(-1) - falling
        mass = mass.masked_fill((before >= top_p).gather(1, order.argsort(-1)), 0.0)
    height = mass.cumsum(-1)
    # Scaled by the sum, u is below the last edge; tokens without mass have edges of equal height and are never drawn.
    return (height > (u * height[:, -1])[:, None]).int().argmax(-1)


def uniforms(seed: int, rows: np.ndarray, position: int) -> Float[np.ndarray, " B"]:
    """Numbers in [0, 1), each a function of (seed, row, position): three rounds of the splitmix64 mixer.

    Source: Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators (constants of variant 13).
    """
    with np.errstate(over="ignore"):
        key = np.full(len(rows), seed % 2**64, np.uint64)
        for part in (rows.astype(np.uint64), np.uint64(position)):
            key = _mix(key) + part
        return (_mix(key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(key: np.ndarray) -> np.ndarray:
    key = key + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@contextmanager
def _without_settings(model: PreTrainedModel) -> Iterator[None]:
    """Without the model's generation settings: a repetition penalty, say, would change every distribution."""
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before

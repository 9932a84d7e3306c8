"""Every causal language model of the installed transformers, made small from its configuration alone, and scored.

PYTHONPATH=tests python -m support.every_architecture --out rows.jsonl [--only NAME ...] [--markdown]

One shrink serves all: widths, depths and sizes are recognised by the names of the configuration's fields. What it
cannot make small, or build, is listed with the reason.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import re
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from preftree.errors import UserError
from preftree.losses.quantities import sum_responses
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TokenSequence
from support.models import VOCAB, plain_all, random_sequences

SECONDS = 60
"""Longest time of one architecture."""

MOST_PARAMETERS = 40_000_000

BOUND = 2e-4
"""Nats a token."""

WINDOW = 9

SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_dim", "model_dim", "lru_width"), 64),
    **dict.fromkeys(("attention_hidden_size", "word_embed_proj_dim", "embedding_size", "embd_pdim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "mlp_hidden_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("intermediate_size_mlp", "encoder_ffn_dim", "block_ff_dim", "dense_intermediate_size"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_attention_heads_per_layer"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "v_head_dim", "qk_nope_head_dim", "attention_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim", "index_head_dim", "swa_head_dim", "kv_channels"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "index_topk", "o_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "n_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups", "time_step_rank", "dt_rank"), 1),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "local_attention"), WINDOW),
    **dict.fromkeys(("swa_window_size", "window_size", "attn_window_size"), WINDOW),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx"), 512),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state", "mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "ssm_head_dim", "chunk_size"), 16),
    "query_pre_attn_scalar": 64,
    "mamba_d_ssm": 128,
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    "eos_token_id": 2,
    "pad_token_id": 0,
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("attention_chunk_size",), 16),
    "max_window_layers": 2,
    "num_kv_shared_layers": 0,
    **dict.fromkeys(("vocab_size", "n_vocab", "vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
}
"""Value of a field in a small model, by the field's name."""


FACTORS = re.compile("multiplier|logit|soft_?cap|residual_scale|embedding_scale|scale_emb")
"""Fields of factors and caps, which are 1 or mild by default, and then hide what is done with them."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one architecture.

    Attributes:
      name: Its name in transformers (model_type).
      layout: `trees`, `rows`, `refused`, `inexact`, `traceback`, or `not built`.
      difference: Largest difference of a response's log-prob, nats a token; None where none was computed.
      head: How the head is computed.
      words: The refusal, or why it was not built.
      slides: Whether a layer attends within a window.
      seconds: Time of this row.
    """

    name: str
    layout: str
    difference: float | None = None
    head: str = ""
    words: str = ""
    slides: bool = False


def names() -> list[str]:
    """Names of all causal language models."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def shrunk(name: str) -> PretrainedConfig:
    """The default configuration of an architecture with small sizes.

    Raises:
      Exception: whatever the configuration raises.
    """
    kind = CONFIG_MAPPING[name]
    return _shrink(kind, kind())


def _shrink(kind: type, default: PretrainedConfig) -> PretrainedConfig:
    fields = default.to_dict()
    if "decoder_layers" in fields and "is_decoder" in fields and "encoder_layers" not in fields:
        fields["is_decoder"] = True
    changes: dict[str, Any] = {}
    for field, value in fields.items():
        try:
            inner = getattr(default, field, None)
        except Exception:  # one value a layer, of which there is no single one
            inner = None
        if isinstance(inner, PretrainedConfig):
            changes[field] = _shrink(type(inner), inner).to_dict()
        elif (field in SIZES and value is not None and not isinstance(value, list | dict | bool)) or (
            value is None and field in ("head_dim", "num_key_value_heads", "q_lora_rank")
        ):
            changes[field] = SIZES[field]
            if field == "num_key_value_heads" and value == fields.get("num_attention_heads"):
                changes[field] = SIZES["num_attention_heads"]
        elif isinstance(value, float) and FACTORS.search(field):
            changes[field] = value * 0.7
    if "qk_rope_head_dim" in fields and "head_dim" in fields:
        changes["head_dim"] = SIZES["qk_rope_head_dim"]
    if getattr(default, "use_sliding_window", None) is not None:
        changes |= {"use_sliding_window": True, "sliding_window": WINDOW}
    elif "sliding_window" in fields:
        changes["sliding_window"] = WINDOW
    if "is_decoder" in fields and not fields.get("is_encoder_decoder"):
        changes["is_decoder"] = True
    layers = SIZES["num_hidden_layers"]
    for field in ("layer_types", "mlp_layer_types", "layers_block_type", "block_types", "attention_types"):
        if isinstance(value := fields.get(field), list) and value and field not in ("attention_types", "block_types"):
            changes[field] = _varied(value, layers)
    if getattr(default, "use_sliding_window", None) is not None:
        changes.pop("layer_types", None)  # the configuration derives them from the switch
    if isinstance(value := fields.get("attn_layer_indices"), list):
        changes["attn_layer_indices"] = [1]
    if {"expand", "head_dim", "num_heads"} <= fields.keys():  # heads of a state space, wider than the model
        changes["num_heads"] = fields["expand"] * SIZES["hidden_size"] // SIZES["head_dim"]
    if "conv_L_cache" in fields and fields.get("layer_types") is None:
        changes["layer_types"] = ["conv", "full_attention"] * (layers // 2)
    if isinstance(fields.get("attention_types"), list):
        changes["attention_types"] = [[["global", "local"], layers // 2]]
    changes.pop("model_type", None)
    return kind(**changes)


def _varied(kinds: Sequence[Any], count: int) -> list[Any]:
    """`count` of the kinds with each kind among them, in their order."""
    taken = sorted({kinds.index(kind) for kind in kinds})[:count]
    more = [index for index in range(len(kinds)) if index not in taken]
    return [kinds[index] for index in sorted(taken + more[: count - len(taken)])]


def build(name: str) -> PreTrainedModel:
    """A small random model; weights are scaled up so that attention patterns and windows matter.

    Raises:
      Exception: whatever the architecture raises; ValueError where it stays large.
    """
    config = shrunk(name)
    module = importlib.import_module("transformers")
    kind = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]
    kind = getattr(module, kind if isinstance(kind, str) else kind[0])
    try:
        size = _size(kind, config)
    except AttributeError:  # a configuration of several models, of which this one is the text's
        config = config.get_text_config()
        size = _size(kind, config)
    if size > MOST_PARAMETERS:
        raise ValueError(f"it has {size / 1e6:.0f} M parameters after the shrink")
    torch.manual_seed(0)
    model = kind(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not torch.isfinite(parameter).all():
                parameter.normal_(std=0.02)
            if parameter.ndim >= 2:
                parameter.mul_(3.0)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    for module in model.modules():
        for field, value in vars(module).items():
            if isinstance(value, float) and "dropout" in field:
                setattr(module, field, 0.0)
    return model


def _size(kind: Any, config: PretrainedConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in kind(copy.deepcopy(config)).parameters())


def responses() -> list[list[TokenSequence]]:
    """Responses to three prompts; the rows are longer than windows, chunks and convolutions."""
    rng = np.random.default_rng(0)
    sizes = ((3, 30, 6), (2, 3, VOCAB), (3, 70, 9))
    return [random_sequences(rng, responses=n, prompt=p, most=30, alphabet=a) for n, p, a in sizes]


def examine(name: str) -> Row:
    """Build, score and compare one architecture."""
    try:
        with _in_time():
            model = build(name)
            plain = copy.deepcopy(model)
            groups = responses()
            with torch.no_grad():
                expected = plain_all(plain, groups)
    except Exception as error:  # a configuration may refuse its small form in any way
        return Row(name, "not built", words=_sentence(error))
    if not expected.isfinite().all():
        return Row(name, "not built", words="the small random model gives no finite logits")
    slides = _slides(model)
    try:
        with _in_time(), torch.no_grad():
            scorer = Scorer(model)
            batch = scorer.lay_out(groups)
            sums = sum_responses(scorer(batch), batch.count_R)
    except UserError as error:
        return Row(name, "refused", words=str(error), slides=slides)
    except Exception as error:
        return Row(name, "traceback", words=_sentence(error), slides=slides)
    difference = float(((sums.values - expected).abs() / sums.num_tokens).max())
    layout = {"rows": "rows", "own": "rows, own forward"}.get(scorer.attention, "trees")
    if not difference <= BOUND:
        layout = f"inexact ({layout})"
    return Row(name, layout, difference, str(scorer.head), slides=slides)


def _slides(model: PreTrainedModel) -> bool:
    """Whether a layer of the model attends within a window, by its configuration."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [])
    return "sliding_attention" in kinds or (not kinds and bool(getattr(config, "sliding_window", None)))


def _sentence(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:160]}"


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| architecture | layout | largest difference, nats a token | windows | |", "|---|---|---|---|---|"]
    for row in rows:
        difference = "" if row["difference"] is None else f"{row['difference']:.0e}"
        slides = "yes" if row["slides"] else ""
        lines.append(f"| {row['name']} | {row['layout']} | {difference} | {slides} | {row['words']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    part, parts = map(int, options.part.split("/"))
    with open(options.out, "a", encoding="utf-8") as file:
        for name in (options.only or names())[part::parts]:
            file.write(json.dumps(asdict(examine(name))) + "\n")
            file.flush()
    if options.markdown:
        print(table([json.loads(line) for line in options.out.read_text(encoding="utf-8").splitlines()]))


if __name__ == "__main__":
    main()

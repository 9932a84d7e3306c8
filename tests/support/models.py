"""Small random models of many architectures, and the slow obvious way to score with them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from preftree.tree.layout import TokenSequence

VOCAB = 101


def _common(**more: object) -> dict[str, object]:
    base = {
        "vocab_size": VOCAB,
        "hidden_size": 64,  # 16 a head, the least that fused kernels on CUDA take
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return base | more


ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("Llama", _common(num_key_value_heads=2)),
    "gpt2": ("GPT2", {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}),
    "gpt_neox": ("GPTNeoX", _common()),
    "qwen2": ("Qwen2", _common(num_key_value_heads=2, use_sliding_window=True, sliding_window=9, max_window_layers=1)),
    "qwen3": ("Qwen3", _common(num_key_value_heads=2, head_dim=16)),
    "mistral": ("Mistral", _common(num_key_value_heads=2, sliding_window=9)),
    "gemma2": (
        "Gemma2",
        _common(num_key_value_heads=2, head_dim=16, sliding_window=9, query_pre_attn_scalar=16)
        | {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    ),
    "gemma3": ("Gemma3", _common(num_key_value_heads=2, head_dim=16, sliding_window=9, query_pre_attn_scalar=16)),
    "opt": ("OPT", _common(ffn_dim=48, word_embed_proj_dim=24, do_layer_norm_before=True)),
    "mixtral": ("Mixtral", _common(num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)),
    "qwen3_moe": (
        "Qwen3Moe",
        _common(num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24),
    ),
    "phi": ("Phi", _common()),
    "cohere": ("Cohere", _common(logit_scale=0.25)),
    "granite": ("Granite", _common(logits_scaling=3.0, attention_multiplier=0.2)),
    "gpt_oss": (
        "GptOss",
        _common(num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=9),
    ),
}
TREES = list(ARCHITECTURES)
MIXTURES = {"mixtral", "qwen3_moe", "gpt_oss"}

ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "mamba": ("Mamba", {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "gptj": (
        "GPTJ",
        {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 512},
    ),
    "lfm2": ("Lfm2", _common(num_key_value_heads=2, layer_types=["conv", "full_attention", "conv"])),
    "bloom": ("Bloom", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


def tiny(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, scale: float = 4.0) -> PreTrainedModel:
    """A small random model; weights are scaled up so that attention patterns and windows matter."""
    kind, options = (ARCHITECTURES | ROWS)[name]
    config = getattr(transformers, f"{kind}Config" if kind != "Gemma3" else "Gemma3TextConfig")(**options)
    kinds = {"GPT2": "GPT2LMHeadModel", "OPT": "OPTForCausalLM", "GPTJ": "GPTJForCausalLM"}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = getattr(transformers, kinds.get(kind, f"{kind}ForCausalLM"))(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(scale)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
    if dtype == torch.float64 and name in MIXTURES:
        model.set_experts_implementation("eager")  # the grouped product has no float64 form
    return model.to(dtype).eval()


def tiny_llama(vocab: int = VOCAB, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A Llama of about 30 thousand parameters."""
    config = transformers.LlamaConfig(**_common(vocab_size=vocab, num_key_value_heads=2, num_hidden_layers=2))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(config).to(dtype).eval()


def longrope(*, vocab: int = VOCAB, seed: int = 0) -> transformers.Phi3ForCausalLM:
    """A model that turns all positions of rows beyond 40 tokens by other angles."""
    rng = np.random.default_rng(seed)
    angles = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": rng.uniform(2, 6, 8).tolist(),
        "original_max_position_embeddings": 40,
    }
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.Phi3Config(
        **sizes,
        vocab_size=vocab,
        num_key_value_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=40,
        rope_parameters=angles,
        pad_token_id=0,
        sliding_window=None,
    )
    torch.manual_seed(seed)
    model = transformers.Phi3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model


def random_sequences(
    rng: np.random.Generator, *, responses: int, prompt: int, most: int = 40, alphabet: int = VOCAB
) -> list[TokenSequence]:
    """Responses to one random prompt; small alphabets make them share beginnings."""
    context = rng.integers(3, VOCAB, prompt)
    sequences = []
    for _ in range(responses):
        length = int(rng.integers(1, most + 1))
        ids = np.concatenate([context, rng.integers(3, min(alphabet, VOCAB), length)]).astype(np.int32)
        sequences.append(TokenSequence(ids, np.arange(len(ids)) >= prompt))
    return sequences


def plain_logps(model: PreTrainedModel, sequence: TokenSequence) -> torch.Tensor:
    """Summed log-prob of one sequence by the model's own forward on that sequence alone: the oracle."""
    ids = torch.from_numpy(sequence.ids.astype(np.int64))
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    wide = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    token_logps = wide.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    return token_logps[torch.from_numpy(sequence.scored[1:])].double().sum()


def plain_all(model: PreTrainedModel, groups: Sequence[Sequence[TokenSequence]]) -> torch.Tensor:
    """`plain_logps` of every sequence, group after group."""
    return torch.stack([plain_logps(model, sequence) for group in groups for sequence in group])

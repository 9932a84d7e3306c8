"""Small models of the families that GGUF files are written of, and tokenizers of each splitting."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from preftree.models.gguf.pre_tokenizers import SPLITTINGS, apply_splitting
from support.tokenizers import END, START, chat_tokenizer

TEXTS = (
    "The capital is 2024, isn't it? ½¼ 12345",
    "  two  spaces\n\n\tétait 練習 🙂 e\u0301",
    f"{START}user\nHi{END}\n",
)
_IDS = torch.tensor([[5, 9, 200, 31, 7, 7, 90, 12]])
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 2,
}


def tokenizer_for(pre: str) -> PreTrainedTokenizerFast:
    tokenizer = chat_tokenizer()
    apply_splitting(tokenizer.backend_tokenizer, SPLITTINGS[pre])
    return tokenizer


def llama(vocab: int, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **_SIZES | more)).eval()


def qwen2(vocab: int) -> PreTrainedModel:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=vocab, tie_word_embeddings=True, **_SIZES)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


def qwen3(vocab: int) -> PreTrainedModel:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocab, head_dim=32, **_SIZES)).eval()


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=_IDS).logits[0]

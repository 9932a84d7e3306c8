"""Small byte-level BPE tokenizers, made on the spot."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

EOS = "<|endoftext|>"
BOS = "<|begin|>"
START = "<|im_start|>"
END = "<|im_end|>"

TEXTS = (
    "Human: what is the capital of France? Assistant: It is Paris, I think. Paris is a city in France.",
    "Assistant: I do not know the answer, but here is a list of words. Human: thank you, that is good to know.",
    "system user assistant The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9 \n\n",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def plain_tokenizer(
    *, bos: bool = False, texts: Iterable[str] = TEXTS, vocab_size: int = 400
) -> PreTrainedTokenizerFast:
    """A tokenizer with an EOS; with `bos` it puts a BOS before every text, as Llama's does."""
    return _wrap(_train(texts, vocab_size, [EOS, BOS] if bos else [EOS], bos=bos), bos=bos)


def ascii_tokenizer(texts: Iterable[str] = TEXTS) -> PreTrainedTokenizerFast:
    """A tokenizer with an EOS of which every token is whole characters, so that any sample of a model is text."""
    return _wrap(_train(texts, 200, [EOS], bos=False, alphabet=[chr(code) for code in range(33, 127)]), bos=False)


def chat_tokenizer(
    *, template: str = CHAT_TEMPLATE, bos: bool = False, texts: Iterable[str] = TEXTS, vocab_size: int = 400
) -> PreTrainedTokenizerFast:
    """A tokenizer with a chat template that marks what the assistant said, and closes a turn with <|im_end|>."""
    special = [EOS, START, END, *([BOS] if bos else [])]
    tokenizer = _wrap(_train(texts, vocab_size, special, bos=bos), bos=bos)
    tokenizer.chat_template = template
    return tokenizer


def _train(
    texts: Iterable[str], vocab_size: int, special: list[str], *, bos: bool, alphabet: list[str] | None = None
) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = alphabet or pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if bos:
        start = (BOS, tokenizer.token_to_id(BOS))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[start]
        )
    return tokenizer


def _wrap(tokenizer: tokenizers.Tokenizer, *, bos: bool) -> PreTrainedTokenizerFast:
    names = {"eos_token": EOS, "pad_token": EOS} | ({"bos_token": BOS} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)

"""Round trips through GGUF files: logits, tokens of 200 texts, greedy text of 20 prompts; with llama.cpp if installed.

    PYTHONPATH=tests python -m support.gguf_round_trips [FILE.gguf] [--types f16,bf16,q8_0] [--greedy]

Without a file, small made Qwen2 and Qwen3 models. Prints a line for each type; `--greedy` adds greedy texts of our
sampler, of transformers' `generate`, and of llama.cpp (`pip install 'preftree[llama]'`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from preftree.generate.hf import generate
from preftree.generate.protocol import Sampling
from preftree.models.beside_weights import end_tokens
from preftree.models.gguf.write import GgufType, round_weights, write_gguf
from preftree.models.load import load_model, load_tokenizer
from support.tiny_gguf import qwen2, qwen3, tokenizer_for

NEW = 24
QUESTIONS = (
    "What is the capital of France?",
    "Name three colours.",
    "Write a sentence about rain.",
    "How many days are in a week?",
    "What is 7 times 8?",
    "Why is the sky blue?",
    "Give me a word that rhymes with cat.",
    "Who wrote Hamlet?",
    "What do bees make?",
    "Translate 'good morning' into Spanish.",
    "How do I boil an egg?",
    "What is the largest ocean?",
    "Name a fruit that is yellow.",
    "What is Python?",
    "When did the Second World War end?",
    "What is the opposite of hot?",
    "Tell me a short joke.",
    "What is H2O?",
    "List two planets.",
    "Is a whale a fish?",
)


@dataclass(frozen=True)
class Parted:
    """A prompt whose greedy texts differ: which, at which token, and how far the two best logits are apart there."""

    question: str
    at: int
    gap: float


def some_texts(number: int = 200, seed: int = 0) -> list[str]:
    """Texts in several scripts, code, numbers, spaces and special tokens, from a seed."""
    rng = np.random.default_rng(seed)
    words = [
        "don't",
        "HELLO",
        "naïve",
        "été",
        "Straße",
        "мир",
        "世界",
        "こんにちは",
        "🙂👍🏽",
        "½",
        "x²",
        "1234567",
        "3.14",
        "def f(x):",
    ]
    words += [
        "return",
        "{",
        "}",
        "==",
        "\t",
        "\n",
        "\n\n",
        "   ",
        "we'll",
        "I'M",
        "a_b",
        "http://x.y/z?q=1",
        "…",
        "—",
        "\u200d",
        "e\u0301",
    ]
    words += [
        "the",
        "quick",
        "fox",
        "jumped",
        "over",
        "2024",
        "items",
        "costs",
        "$5",
        "<|im_start|>",
        "<|im_end|>",
        "user",
    ]
    texts = []
    for _ in range(number):
        chosen = [words[at] for at in rng.integers(len(words), size=int(rng.integers(1, 30)))]
        texts.append("".join(word + " " * int(rng.integers(0, 3)) for word in chosen))
    return texts


def prompts_of(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The questions in the chat template."""
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in QUESTIONS
    ]
    return [tokenizer.encode(str(text), add_special_tokens=False) for text in texts]


def all_logits(model: PreTrainedModel, prompts: Sequence[list[int]]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0] for ids in prompts]


def most(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True))


def greedy_here(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> list[list[int]]:
    """By our sampler, in one padded batch, with the token that ended each."""
    found = generate(model, tokenizer, prompts, Sampling(max_new_tokens=NEW, temperature=0.0))
    return [[*each.ids, *([] if each.end is None else [each.end])] for each in found]


def greedy_there(model: PreTrainedModel, prompts: list[list[int]]) -> list[list[int]]:
    """By transformers' own `generate`, one prompt at a time, with the model's own settings."""
    settings = GenerationConfig.from_dict(
        {**model.generation_config.to_dict(), "max_new_tokens": NEW, "do_sample": False}
    )  # pyright: ignore[reportOptionalMemberAccess]
    out = []
    for ids in prompts:
        row = torch.tensor([ids])
        with torch.no_grad():
            new = cast(Any, model).generate(row, attention_mask=torch.ones_like(row), generation_config=settings)
        out.append(new[0, len(ids) :].tolist())
    return out


def greedy_llama(path: Path, prompts: list[list[int]]) -> list[list[int]]:
    """By llama.cpp on the file, which itself decides what ends a text."""
    import llama_cpp

    model = open_llama(path)
    out = []
    for ids in prompts:
        model.reset()
        new: list[int] = []
        for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            new.append(token)
            if len(new) == NEW or llama_cpp.llama_vocab_is_eog(model._model.vocab, token):
                break
        out.append(new)
    return out


def tokens_llama(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of texts by llama.cpp."""
    model = open_llama(path)
    return [model.tokenize(text.encode(), add_bos=False, special=True) for text in texts]


def open_llama(path: Path) -> Any:
    import llama_cpp

    kind = llama_cpp.GGML_TYPE_F32  # of the keys and values
    return llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, n_batch=512, type_k=kind, type_v=kind, verbose=False)


def compare_greedy(
    model: PreTrainedModel, prompts: list[list[int]], ours: list[list[int]], theirs: list[list[int]]
) -> list[Parted]:
    """The prompts whose texts differ."""
    parted = []
    for question, ids, one, other in zip(QUESTIONS, prompts, ours, theirs, strict=True):
        if one == other:
            continue
        at = next(
            (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
        )
        best = all_logits(model, [[*ids, *one[:at]]])[0][-1].topk(2).values
        parted.append(Parted(question, at, float(best[0] - best[1])))
    return parted


def round_trip(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: GgufType, path: Path
) -> dict[str, Any]:
    """Bytes, differences of logits to the model's own and to those of rounded weights, texts with equal tokens."""
    prompts = prompts_of(tokenizer)
    own = all_logits(model, prompts)
    write_gguf(model, tokenizer, path, kind, ends=end_tokens(model.generation_config, tokenizer), name="model")
    read, again = load_model(path), load_tokenizer(path)
    found = all_logits(read, prompts)
    rounded = type(model)(model.config).eval()
    rounded.load_state_dict(model.state_dict())
    round_weights(rounded, kind)
    texts = some_texts()
    return {
        "bytes": path.stat().st_size,
        "largest logit": max(float(each.abs().max()) for each in own),
        "to its own": most(found, own),
        "to rounded": most(found, all_logits(rounded, prompts)),
        "texts equal": sum(again.encode(text) == tokenizer.encode(text) for text in texts),
        "same first word": sum(int(a[-1].argmax() == b[-1].argmax()) for a, b in zip(found, own, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--types", default="f16,bf16,q8_0")
    parser.add_argument("--greedy", action="store_true")
    given = parser.parse_args()
    if given.file is not None:
        models = {given.file.name: (load_model(given.file), load_tokenizer(given.file))}
    else:
        tokenizer = tokenizer_for("qwen2")
        models = {"made Qwen2": (qwen2(len(tokenizer)), tokenizer), "made Qwen3": (qwen3(len(tokenizer)), tokenizer)}
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, tokenizer) in models.items():
            for kind in given.types.split(","):
                path = Path(folder) / f"{kind}.gguf"
                print(name, kind, round_trip(model, tokenizer, kind, path), flush=True)
                if given.greedy:
                    report_greedy(path, tokenizer)


def report_greedy(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Print where greedy texts differ."""
    model, prompts = load_model(path), prompts_of(tokenizer)
    ours = greedy_here(model, tokenizer, prompts)
    print("ours and transformers:", compare_greedy(model, prompts, ours, greedy_there(model, prompts)), flush=True)
    try:
        texts = some_texts()
        tokens = tokens_llama(path, texts)
    except ImportError as error:
        print(f"llama.cpp is left out: {error}")
        return
    wrong = [text for text, ids in zip(texts, tokens, strict=True) if ids != tokenizer.encode(text)]
    print("texts that llama.cpp makes other tokens of:", len(wrong), wrong[:3], flush=True)
    print("ours and llama.cpp:", compare_greedy(model, prompts, ours, greedy_llama(path, prompts)), flush=True)


if __name__ == "__main__":
    main()

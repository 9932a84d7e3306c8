"""Small stand-ins for the models and data sets that recipes name: the same files and columns, under the same names.

What exists on this disk comes before the hub, so a recipe that is run in the folder of these reads them in its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from support.datafiles import Row, write_rows
from support.tokenizers import ascii_tokenizer

POSITIVE = ("great", "fine", "lovely", "warm")
NEGATIVE = ("dull", "poor", "awful", "cold")
PLAIN = ("the", "film", "was", "plot", "and", "I", "saw", "it", "cast", "a", "very")
LAYERS = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 1024}


def make_standins(folder: Path) -> None:
    """Everything that the recipes take from the hub."""
    tokenizer = ascii_tokenizer()
    more: Any = {"vocab_size": len(tokenizer)}
    more["bos_token_id"] = more["eos_token_id"] = tokenizer.eos_token_id
    gptj = transformers.GPTJConfig(**LAYERS, **more, rotary_dim=8)
    neox = transformers.GPTNeoXConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, **more
    )
    models = {
        "gpt2-large": (transformers.GPT2LMHeadModel, transformers.GPT2Config(**LAYERS, **more)),
        "EleutherAI/gpt-j-6b": (transformers.GPTJForCausalLM, gptj),
        "CarperAI/openai_summarize_tldr_sft": (transformers.GPTJForCausalLM, gptj),
        "EleutherAI/pythia-2.8b": (transformers.GPTNeoXForCausalLM, neox),
    }
    for seed, (name, (kind, config)) in enumerate(models.items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _save(kind(config), tokenizer, folder / name)
    make_classifier(folder / "siebert/sentiment-roberta-large-english")
    rng = np.random.default_rng(0)
    for split, number in (("train", 24), ("test", 16)):
        rows = [{"text": f"{words(rng, 12)}. {words(rng, 9)}.", "label": int(rng.integers(2))} for _ in range(number)]
        _write(folder / f"stanfordnlp/imdb:{split}/0000.parquet", rows)
    comparisons = [_comparison(rng, row) for row in range(200)]
    _write(folder / "CarperAI/openai_summarize_comparisons/0000.parquet", comparisons)
    for split in ("", ":train", ":valid", ":test"):
        rows = [{"prompt": f"{_post(rng, row)}\nTL;DR:", "label": f" {words(rng, 5)}"} for row in range(24)]
        _write(folder / f"CarperAI/openai_summarize_tldr{split}/0000.parquet", rows)
    for split in ("", ":train", ":test"):
        _write(folder / f"Anthropic/hh-rlhf{split}/rows.jsonl.gz", [_dialogue(rng, row) for row in range(48)])


def make_classifier(
    folder: Path, *, seed: int = 0, positions: int = 512, labels: tuple[str, ...] = ("NEGATIVE", "POSITIVE")
) -> Path:
    """A RoBERTa with a tokenizer of its own, its weights large enough to be of some opinion."""
    base = ascii_tokenizer()
    base.add_special_tokens({"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base.backend_tokenizer,
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        eos_token="</s>",
        bos_token="<s>",
    )
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions + tokenizer.pad_token_id + 1,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.RobertaForSequenceClassification(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(6 if parameter.ndim > 1 else 1)
    _save(model, tokenizer, folder)
    return folder


def words(rng: np.random.Generator, number: int) -> str:
    """So many words of a small language."""
    return " ".join(rng.choice((*PLAIN, *POSITIVE, *NEGATIVE), number))


def _post(rng: np.random.Generator, row: int) -> str:
    return f"SUBREDDIT: r/films\nTITLE: {row} {words(rng, 3)}\nPOST: {words(rng, 12)}"


def _comparison(rng: np.random.Generator, row: int) -> Row:
    post = _post(rng, row)
    return {"prompt": post, "chosen": f"TL;DR:  {words(rng, 5)} good", "rejected": f"TL;DR:  {words(rng, 4)} bad"}


def _dialogue(rng: np.random.Generator, row: int) -> Row:
    turns = f"\n\nHuman: {row} {words(rng, 4)}?"
    if row % 3 == 0:
        turns += f"\n\nAssistant: {words(rng, 3)}.\n\nHuman: {words(rng, 3)}?"
    sides = [f"{turns}\n\nAssistant: {words(rng, 5)} {end}." for end in ("good", "bad")]
    return {"chosen": sides[0], "rejected": sides[1]}


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, rows)

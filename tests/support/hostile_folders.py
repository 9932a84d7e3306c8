"""Broken model, adapter and tokenizer folders from a seed, and what becomes of whoever loads them.

PYTHONPATH=tests python -m support.hostile_folders --number 300 --out FOLDER
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from preftree.config.lora import LoraOptions
from preftree.data.rows.faults import RowFault
from preftree.data.tokens.encoder import make_encoder
from preftree.data.tokens.template import render
from preftree.errors import UserError
from preftree.generate.hf import generate
from preftree.generate.protocol import Sampling
from preftree.models.adapter_folder import write_adapter
from preftree.models.adapters import add_adapter
from preftree.models.load import load_model, load_tokenizer
from preftree.models.write_folder import save_model
from preftree.records import Message
from preftree.scoring.scorer import Scorer
from support.models import tiny_llama
from support.tokenizers import chat_tokenizer

VALUES: list[Any] = [
    *(10**9, 10**18, 10**30, -1, 0, 1e300, float("nan"), "seven", "", None, [], {}, [1, "a"], {"a": {"b": 1}}, True),
    "\u202e\x1b[31mred",
]
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "head_dim")
FIELDS = (
    *SIZES,
    *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "model_type", "architectures", "hidden_act"),
    *("rope_parameters", "dtype", "eos_token_id", "pad_token_id", "tie_word_embeddings", "attention_bias", "auto_map"),
)
TEMPLATES = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ 'a' * 99999999999 }}",
    "{{ ('a' * 99999) * 99999 }}",
    "{{ 1 / 0 }}",
    "{{ messages[99] }}",
    "{{ messages.x.y.z }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% if %}",
    "{{ raise_exception('\\x1b[2J\\u202eno') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% include '/etc/passwd' %}",
    "{% for m in messages %}{% endfor %}",
    "{{ '((((' * 1000 }}",
    "{% set x = namespace(n='a') %}{% for i in range(60) %}{% set x.n = x.n ~ x.n %}{% endfor %}{{ x.n }}",
    "",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one folder.

    Attributes:
      name: The damage, in words.
      kind: `sentence`, `works`, `lines` (a message of several lines), or `traceback`.
      words: The message.
      seconds: Processor time.
    """

    name: str
    kind: str
    words: str
    seconds: float


def make_sources(top: Path) -> tuple[Path, Path]:
    """A whole model and an adapter of it."""
    tokenizer = chat_tokenizer()
    model = tiny_llama(len(tokenizer))
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    save_model(model, tokenizer, top / "model", card="")
    add_adapter(model, LoraOptions(r=2).filled(), seed=0)
    (top / "adapter").mkdir()
    write_adapter(model, str(top / "model"), top / "adapter")
    return top / "model", top / "adapter"


def damages(seed: int, number: int) -> Iterator[tuple[str, bool, Callable[[Path], None]]]:
    """Damages in words, whether they are of an adapter's folder, and what does them to a copy."""
    rng = random.Random(seed)
    makers = (
        _cut,
        _cut,
        _field,
        _field,
        _huge,
        _tokenizer,
        _tokenizer_config,
        _template,
        _file_kind,
        _header,
        _adapter,
    )
    for index in range(number):
        maker = makers[index % len(makers)]
        name, damage = maker(rng, index)
        yield f"{index} {name}", maker is _adapter, damage


def _edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_bytes())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def _cut(rng: random.Random, _: int) -> tuple[str, Callable[[Path], None]]:
    name = rng.choice(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
    share = rng.choice([0.0, rng.random(), 0.999])

    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return f"{name} cut to {share:.3f}", damage


def _field(rng: random.Random, _: int) -> tuple[str, Callable[[Path], None]]:
    field, value = rng.choice(FIELDS), rng.choice(VALUES)
    return f"config.{field}={value!r}", _edit("config.json", lambda content: content.__setitem__(field, value))


def _huge(rng: random.Random, _: int) -> tuple[str, Callable[[Path], None]]:
    field, value = rng.choice(SIZES), rng.choice([10**6, 10**9, 10**12, 10**30, 1e300])
    return f"config.{field}={value!r}", _edit("config.json", lambda content: content.__setitem__(field, value))


def _tokenizer(rng: random.Random, _: int) -> tuple[str, Callable[[Path], None]]:
    kind = rng.randrange(7)
    value = rng.choice(VALUES)

    def change(content: dict[str, Any]) -> None:
        if kind == 0:
            content.pop("model")
        elif kind == 1:
            content["model"]["vocab"] = {token: str(number) for token, number in content["model"]["vocab"].items()}
        elif kind == 2:
            content["model"]["merges"] = [["never", "seen"]]
        elif kind == 3:
            content["added_tokens"][0]["id"] = rng.choice([10**9, -1, 2**63])
        elif kind == 4:
            content["pre_tokenizer"] = value
        elif kind == 5:
            content["model"]["type"] = value
        else:
            content["model"]["vocab"] = {"a": 0}

    if rng.random() < 0.15:
        return (
            "tokenizer.json nested 200,000 deep",
            lambda folder: (folder / "tokenizer.json").write_text("[" * 200_000) and None,
        )  # pyright: ignore[reportReturnType]
    return f"tokenizer.json, change {kind} ({value!r})", _edit("tokenizer.json", change)


def _tokenizer_config(rng: random.Random, _: int) -> tuple[str, Callable[[Path], None]]:
    field = rng.choice(["tokenizer_class", "eos_token", "chat_template", "model_max_length", "pad_token", "auto_map"])
    value = rng.choice(VALUES)

    def damage(folder: Path) -> None:
        _edit("tokenizer_config.json", lambda content: content.__setitem__(field, value))(folder)
        if field == "chat_template":
            (folder / "chat_template.jinja").unlink(missing_ok=True)

    return f"tokenizer_config.{field}={value!r}", damage


def _template(rng: random.Random, index: int) -> tuple[str, Callable[[Path], None]]:
    text = TEMPLATES[(index // 11) % len(TEMPLATES)]
    return f"template {text[:40]}", lambda folder: (folder / "chat_template.jinja").write_text(text) and None  # pyright: ignore[reportReturnType]


def _file_kind(rng: random.Random, _: int) -> tuple[str, Callable[[Path], None]]:
    name = rng.choice(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
    kind = rng.choice(["pipe", "folder", "zero", "loop", "missing", "binary"])

    def damage(folder: Path) -> None:
        path = folder / name
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "binary":
            path.write_bytes(rng.randbytes(300))

    return f"{name} is a {kind}", damage


def _header(rng: random.Random, _: int) -> tuple[str, Callable[[Path], None]]:
    kind = rng.randrange(6)

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
        name = rng.choice([name for name in header if name != "__metadata__"])
        if kind == 0:
            header[name]["shape"] = [10**9, 10**9]
        elif kind == 1:
            header[name]["data_offsets"] = [0, 2**60]
        elif kind == 2:
            header[name]["dtype"] = rng.choice(["F128", "I64", 7])
        elif kind == 3:
            header.pop(name)
        elif kind == 4:
            header["other." + name] = header.pop(name)
        text = json.dumps(header).encode()
        size = 2**62 if kind == 5 else len(text)
        path.write_bytes(size.to_bytes(8, "little") + text + rest)

    return f"header of the weights, change {kind}", damage


def _adapter(rng: random.Random, _: int) -> tuple[str, Callable[[Path], None]]:
    kind, value = rng.randrange(6), rng.choice(VALUES)
    field = rng.choice(["r", "lora_alpha", "target_modules", "peft_type", "base_model_name_or_path", "rank_pattern"])
    if kind < 3:
        change = lambda content: content.__setitem__(field, copy.copy(value))  # noqa: E731
        return f"adapter_config.{field}={value!r}", _edit("adapter_config.json", change)

    def damage(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        name = rng.choice(sorted(tensors))
        if kind == 3:
            path.write_bytes(path.read_bytes()[: rng.randrange(1, path.stat().st_size)])
            return
        if kind == 4:
            tensors = {} if rng.random() < 0.5 else {key: value for key, value in tensors.items() if key != name}
        else:
            tensors[name] = torch.zeros(3, 5)
        save_file(tensors, path, metadata={"format": "pt"})

    return f"adapter's tensors, change {kind}", damage


def examine(name: str, folder: Path, base: Path) -> Outcome:
    """Load, render, score and sample, as every verb does in some order."""
    start = time.process_time()
    try:
        use(folder)
        kind, words = "works", ""
    except UserError as error:
        words = str(error)
        kind = "lines" if "\n" in words or "\x1b" in words or "Traceback" in words else "sentence"
    except Exception as error:  # the very thing that is looked for
        kind, words = "traceback", f"{type(error).__name__}: {error}"
    return Outcome(name, kind, words, time.process_time() - start)


def use(folder: Path) -> None:
    """What a verb does with a model: tokenizer, weights, a rendered conversation, log-probs, a sample."""
    tokenizer = load_tokenizer(folder)
    model = load_model(folder)
    encoder = make_encoder(tokenizer)
    encoder.facts()
    if tokenizer.chat_template:
        try:
            render(tokenizer, encoder, (Message("user", "what"),), [("chosen", (Message("assistant", "yes"),))])
        except RowFault as fault:
            raise UserError(fault.message) from fault
    Scorer(model)
    generate(model, tokenizer, [[3, 4, 5]], Sampling(max_new_tokens=2))


@contextmanager
def _without_room_for_much() -> Iterator[None]:
    """At most 12 GB of address space, so that what would fill the memory fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run(seed: int, number: int, *, first: int = 0) -> list[Outcome]:
    """Outcomes of `number` damages, after those before `first`."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name, _without_room_for_much():
        top = Path(name)
        sources = make_sources(top)
        for index, (words, is_adapter, damage) in enumerate(damages(seed, number)):
            if index < first:
                continue
            folder = top / f"case{index}"
            shutil.copytree(sources[is_adapter], folder)
            try:
                damage(folder)
                outcomes.append(examine(words, folder, sources[0]))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    outcomes = run(options.seed, options.number)
    print(Counter(outcome.kind for outcome in outcomes), f"longest {max(o.seconds for o in outcomes):.1f} s")
    for outcome in outcomes:
        if options.out is not None:
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(f"{outcome.kind}\t{outcome.seconds:.1f}\t{outcome.name}\t{outcome.words}\n")
        if outcome.kind in ("lines", "traceback") or outcome.seconds > 10:
            print(f"{outcome.kind} {outcome.seconds:.1f} s: {outcome.name}: {outcome.words}")


if __name__ == "__main__":
    main()

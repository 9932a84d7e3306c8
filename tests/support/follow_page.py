"""Follows a page of the documentation in a folder with small stand-ins, as a reader would, and in its order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.config.command_line import split_words
from preftree.config.recipes import RECIPES
from support.models import tiny_llama
from support.pages import ROOT, Block, blocks_of, commands_of, verb_of, words_of_preftree
from support.small_runs import make_pairs
from support.tokenizers import ascii_tokenizer, chat_tokenizer

_STEP = {"max_steps": "1", "batch_size": "4", "answers": "1"}
SMALL = _STEP | {"max_response_length": "24", "truncation": "trim_response"}
SMALL_ONLINE = _STEP | {"max_new_tokens": "4"}
SMALL_OPTIONS = {"--max-new-tokens": 8, "--samples": 4, "--prompts": 2, "--num-prompts": 2}
"""Options that keep a command short, where it has them; --prompts may be a file, and is a number here."""

LEFT_OUT = ("pip", "make", "cd")
"""Programs that set up a machine."""


def make_place(folder: Path, page: str) -> None:
    """What a page expects to be there before its first command."""
    models, files = PLACES[page]
    for name in models:
        tokenizer = ascii_tokenizer() if name in BASE_MODELS else chat_tokenizer()
        model = tiny_llama(len(tokenizer))
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            lines = (ROOT / name).read_text("utf-8").splitlines(keepends=True)
            (folder / name).write_text("".join(lines[:12]), "utf-8")
        elif name.endswith(".txt"):
            (folder / name).write_text(
                f"The plot of {name} was good, and the movie very fine. I was not bored.\n", "utf-8"
            )
        else:
            make_pairs(folder / name, 24)


REAL = "runs/real/model"
BASE_MODELS = ("base", "HuggingFaceTB/SmolLM2-135M")
"""Models without a chat template; every sample of their stand-ins is text."""

PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "tutorial": ((REAL,), ("benchmarks/real/pairs.jsonl", "benchmarks/real/questions.jsonl", "prefs.jsonl")),
    "chat_lora": (("Qwen/Qwen2.5-1.5B-Instruct",), ("prefs.jsonl",)),
    "like_you": (("HuggingFaceTB/SmolLM2-135M",), tuple(f"letters/{number}.txt" for number in range(12))),
    "choose_beta": (("base",), ("prefs.jsonl",)),
    "fit_memory": (("base", "meta-llama/Llama-3.1-8B-Instruct"), ("prefs.jsonl",)),
    "serve": (("instruct",), ("prefs.jsonl",)),
    "extend": (("base",), ("prefs.jsonl", "prompts.jsonl")),
    "dpo": ((), ()),
}
"""Models and files that a page names and does not make; a file of this repository is taken from it, in part."""

BEFORE = {"serve": ["dpo", "model=./instruct", "data=prefs.jsonl", "lora.r=4", "out=runs/dpo"]}
"""The command that a page expects to have been given."""


def follow(page: str) -> list[str]:
    """Follow a page in the current folder; returns the commands that ran.

    Raises:
      AssertionError: a command failed.
    """
    ran: list[str] = []
    if page in BEFORE:
        _run(BEFORE[page], 0)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of((ROOT / "docs" / f"{page}.md").read_text("utf-8")):
        if block.needs:
            continue
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(f"{block.text}\n", "utf-8")
        elif block.language == "python":
            exec(compile(block.text, f"{page}.md:{block.line}", "exec"), names)
        elif block.language == "bash":
            ran += _follow_commands(block)
        _parse(block)
    return ran


def _follow_commands(block: Block) -> list[str]:
    ran = []
    for words in commands_of(block):
        command = words_of_preftree(words)
        if command is not None:
            _run(command, block.line)
            ran.append(command[0])
        elif words[0] not in LEFT_OUT:
            raise AssertionError(f"line {block.line}: {words[0]} is no command of Preftree; mark what the block needs")
    return ran


def _run(words: list[str], line: int) -> None:
    done = CliRunner().invoke(app, small(words), input="/quit\n", catch_exceptions=False)
    assert done.exit_code == 0, (line, words, done.output)


def small(words: list[str]) -> list[str]:
    """The same command, less of it."""
    verb, name, rest = verb_of(words)
    recipe = words[1] if name == "sweep" else name
    if recipe in RECIPES:
        kind = RECIPES[recipe].config
        wanted = SMALL_ONLINE if RECIPES[recipe].samples else SMALL
        taken = {option for option, _ in split_words(kind, [word for word in rest if "=" in word])[1]}
        kept = [word for word in words if word.partition("=")[0] not in wanted]
        words = kept + [f"{option}={value}" for option, value in wanted.items() if option in kind.model_fields]
        assert "out" in taken
    for parameter in verb.params:
        option = next((option for option in parameter.opts if option in SMALL_OPTIONS), None)
        if option is None or "int" not in str(parameter.type_descriptor.annotation):
            continue
        if option in words:
            place = words.index(option) + 1
            words = [*words[:place], str(min(int(words[place]), SMALL_OPTIONS[option])), *words[place + 1 :]]
        elif option != "--samples" or name == "sweep":
            words = [*words, option, str(SMALL_OPTIONS[option])]
    return words


def _parse(block: Block) -> None:
    if block.language == "yaml":
        yaml.safe_load(block.text)
    if block.language == "json":
        for row in block.text.splitlines() if block.title else [block.text]:
            json.loads(row)

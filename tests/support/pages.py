"""Pages of the documentation as a reader uses them: blocks of code, and the commands of Preftree in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

from preftree.cli.main import app
from preftree.config.command_line import split_words
from preftree.config.help import fields_at
from preftree.config.load import load_config
from preftree.config.recipes import RECIPES
from preftree.evaluate.sweep import plan_sweep
from preftree.train.objective import bind_objective, bind_reward

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"```(\w*)(?: title=\"([^\"]+)\")?$")
_NEEDS = re.compile(r"<!-- needs: (.+) -->$")
_INLINE = re.compile(r"(?<!`)`(preftree [^`]+)`(?!`)")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Attributes:
      line: Number of its first line in the page.
      language: Language of its fence; `bash` of an indented block with a command of Preftree.
      title: File that it is, where the fence says so.
      needs: What a machine must have to run it, where the line before the block says so.
      text: Its lines.
    """

    line: int
    language: str
    title: str
    needs: str
    text: str


def blocks_of(page: str) -> Iterator[Block]:
    """The blocks of code of a page, fenced or indented, in their order."""
    lines = page.splitlines()
    needs, before, number = "", "", 0
    while number < len(lines):
        line = lines[number]
        fence = _FENCE.match(line)
        if fence or (line.startswith("    ") and not before.strip()):
            start = number + 1 if fence else number
            end = start
            while end < len(lines) and (lines[end] != "```" if fence else lines[end].startswith("    ")):
                end += 1
            text = "\n".join(lines[start:end] if fence else [inner[4:] for inner in lines[start:end]])
            indented = "bash" if re.search(r"^preftree ", text, re.MULTILINE) else ""
            language, title = (fence[1], fence[2] or "") if fence else (indented, "")
            yield Block(start + 1, language, title, needs, text)
            number, needs, before = end + bool(fence), "", ""
            continue
        mark = _NEEDS.match(line)
        needs = mark[1] if mark else needs if not line.strip() else ""
        before, number = line, number + 1


def commands_of(block: Block) -> Iterator[list[str]]:
    """The words of each command of a block; comments are left out, and lines that end in a backslash go on."""
    if block.language != "bash":
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def words_of_preftree(words: list[str]) -> list[str] | None:
    """What follows the program's name, up to a redirection; None where the command is of another program."""
    if words[0] in ("python", "torchrun") and words[-1] != "preftree" and "preftree" in words:
        words = words[words.index("preftree") :]
    if words[0] != "preftree":
        return None
    end = next((place for place, word in enumerate(words) if word in (">", "|", "&&", "2>")), len(words))
    return words[1:end]


@cache
def _program() -> Any:
    return typer.main.get_command(app)


def verb_of(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that words name, its name, and the words after it.

    Raises:
      ValueError: there is no such verb.
    """
    verb = _program()
    name, rest = "preftree", words
    while hasattr(verb, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in verb.commands:
            raise ValueError(f"{name} has no verb {rest[0]!r}")
        verb, name, rest = verb.commands[rest[0]], rest[0], rest[1:]
    return verb, name, rest


def check_command(words: list[str]) -> None:
    """Parse a command as the program does, with placeholders where a page has them.

    Raises:
      Exception: the program would refuse it.
    """
    verb, name, rest = verb_of(words)
    if {"--help", "-h", "--version"} & {*words}:
        return
    rest = [word for part in rest if (word := _filled(part))]
    recipe = "dpo" if (name, words[0]) == ("build", "ref") else rest[0] if name == "sweep" else name
    if recipe not in RECIPES or name not in (recipe, "build", "sweep"):
        verb.make_context(name, rest)
        return
    if name == "sweep":
        rest = verb.make_context(name, rest).params["words"]
    kind = RECIPES[recipe].config
    files, options = split_words(kind, rest)
    known = [file for file in files if (ROOT / file).is_file()]
    given = {option.partition(".")[0] for option, _ in options}
    rest = [word for word in rest if word not in files or word in known]
    if not known:
        lacking = (field for field, about in kind.model_fields.items() if about.is_required() and field not in given)
        rest += [f"{field}=placeholder" for field in lacking]
    config = plan_sweep(kind, rest)[1][0].config if name == "sweep" else load_config(kind, rest)
    if recipe in ("dpo", "reward") and ".py:" not in str(config.loss):
        bind_objective(config) if recipe == "dpo" else bind_reward(config)


def inline_commands(page: str) -> Iterator[str]:
    """Commands that a page mentions in its text and its tables."""
    outside = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    for line in outside.splitlines():
        if not line.startswith("    "):
            yield from _INLINE.findall(line.replace("\\|", "|"))


def check_mention(text: str) -> None:
    """Check that the verbs, --options and key= words of a mention exist; it may be a part of a command.

    Raises:
      ValueError: one of them does not.
    """
    words = re.sub(r"[\[\]]", " ", text).split()[1:]
    if not words or words[0].isupper() or words[0].startswith("-"):
        return
    for outer in words[0].split("|"):
        verb, name, _ = verb_of([outer])
        inner = words[1].split("|") if hasattr(verb, "commands") and len(words) > 1 else []
        for path in [[outer, word] for word in inner] or [[outer]]:
            verb, name, _ = verb_of(path)
            _check_options(verb, name, words[len(path) :])


def _check_options(verb: Any, name: str, words: list[str]) -> None:
    options = {option for parameter in verb.params for option in parameter.opts} | {"--help"}
    fields = fields_at(RECIPES[name].config) if name in RECIPES else {}
    options |= {f"--{field.replace('_', '-')}" for field in fields}
    for word in (part for each in words for part in each.split("|")):
        if word.startswith("--") and word.partition("=")[0] not in options:
            raise ValueError(f"{name} has no option {word}")
        key = re.match(r"(\w+)[\w.]*=", word)
        if fields and key and key[1] not in {*fields, "key"}:
            raise ValueError(f"{name} has no option {key[1]}")


def _filled(word: str) -> str:
    """A word of a command line in place of one of a synopsis: the first of `a|b`, a number for X, nothing for ..."""
    word = word.strip("[]")
    if word == "...":
        return ""
    if "|" in word and "=" not in word and "{" not in word:
        word = word.partition("|")[0]
    if word.endswith("=..."):
        word = word.replace("...", "placeholder")
    return {"X": "1", "N": "1"}.get(word, word)

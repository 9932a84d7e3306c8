"""`preftree chat MODEL`: talk to a model, or to two and say which answer is better."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from preftree.cli.chat_lines import ChatLines
from preftree.cli.shared import Model, SamplingTemperature, Step, TopP, announce, whole_number

if TYPE_CHECKING:
    from rich.console import Console

    from preftree.collect.records import Side
    from preftree.generate.chat import Answer, Chat, Speaker
    from preftree.generate.hf import Sampling

Keep: TypeAlias = "Callable[[Chat, list[Answer], str], None]"
"""Keeps a choice: the chat, both answers from left to right, and the key."""

COMMANDS = (
    "/new starts over · /system TEXT sets the system message · /undo takes a turn back\n"
    "/regenerate answers the last question again · /quit or Ctrl-D ends · Esc Enter begins another line"
)
KEYS = "1 or 2: that one is better · t: a tie · b: both are bad · s: skip, nothing is recorded"


def chat(
    model: Model,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL2", help="Answer side by side with another model.", show_default=False)
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="An adapter over MODEL: its name in MODEL's folder, or its own folder; give two to compare them.",
            show_default=False,
        ),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Hide which model wrote which answer until you choose.")
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Preference file to append choices to, or a project (P.db) of `collect`.  "
            "[default: preferences.jsonl]",
            show_default=False,
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.", show_default=False)] = None,
    temperature: SamplingTemperature = 0.7,
    top_p: TopP = 1.0,
    max_new_tokens: Annotated[int, whole_number(min=1, help="Maximum tokens of an answer.")] = 512,
    seed: Annotated[int, whole_number(min=0, help="Seed of the answers, and of the sides when blind.")] = 0,
    step: Step = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="hh|chatml|FILE", help="For a model without a chat template.", show_default=False),
    ] = None,
) -> None:
    """Talk to a model in the terminal; with --against, or two --adapter, compare two and collect preferences.

    A model without a chat template continues what you write, each line for itself; --template makes it a conversation.
    """
    announce(f"chat with {model}" + (f" and {against}" if against else ""))
    from dataclasses import replace

    from rich.console import Console

    from preftree.errors import ConfigError, UserError
    from preftree.generate.chat import Chat, Speaker
    from preftree.generate.hf import Sampling
    from preftree.generate.plain_templates import give_template
    from preftree.models.load import load_model, load_tokenizer
    from preftree.runtime.logs import quiet_transformers
    from preftree.runtime.machine import sampling_device
    from preftree.runtime.paths import cache_root
    from preftree.train.step_model import model_at

    quiet_transformers()
    adapters = adapter or []
    if len(adapters) + (against is not None) > 2:
        raise ConfigError("two models can be compared at once; give one --adapter with --against, or two without it")
    single = against is None and len(adapters) < 2
    if single and (blind or record is not None):
        raise ConfigError(
            "--blind and --record are for two models; give the other one with --against, or two --adapter"
        )
    choices = record or Path("preferences.jsonl")
    console = Console(highlight=False, markup=False, emoji=False)
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    speakers = _with_adapters(console, model, adapters) if adapters else []
    if adapters and step is not None:
        raise ConfigError("--step is for a run, and --adapter for a model under adapters; give one of them")
    model = model if step is None else f"{model}@{step}"
    for name in (*(() if adapters else (model,)), *(() if against is None else (against,))):
        model_path = model_at(name)
        speakers.append(Speaker(name, load_model(model_path, device=sampling_device()), load_tokenizer(model_path)))
    for speaker in speakers if template is not None else ():
        sampling = replace(sampling, stop=give_template(speaker.tokenizer, str(template), speaker.name))
    if len({speaker.has_template for speaker in speakers}) > 1:
        raise ConfigError("one of the models has a chat template and the other has none: they cannot answer the same")
    if system is not None and not speakers[0].has_template:
        raise ConfigError(f"{model} has no chat template, so --system has no place; leave it out")
    talk = Chat(speakers[0].has_template, system)
    lines = ChatLines(console, cache_root() / "chat-history")
    # Numbers of the questions: one that comes up again, here or in another session, gets other draws and sides.
    with ExitStack() as project:
        keep, count = (None, 0) if single else _recorder(choices, seed, project)
        numbers = itertools.count(1 + count)
        console.print(COMMANDS, style="dim")
        if not talk.templated:
            console.print("No chat template: the model continues what you write, each line for itself.", style="dim")
        while (line := lines.message("\nyou> ")) is not None and line not in ("/quit", "/exit"):
            try:
                if line == "/regenerate":
                    if not talk.turns:
                        console.print("There is no question yet.", style="dim")
                        continue
                    talk, line = talk.undo(), talk.question
                if line.startswith("/"):
                    talk = _obey(console, talk, line)
                elif line and keep is None:
                    talk = _converse(console, speakers[0], talk.ask(line), sampling, next(numbers))
                elif line and keep is not None:
                    talk = _compare(
                        console, speakers, talk.ask(line), sampling, next(numbers), blind, choices, keep, lines
                    )
            except UserError as error:
                console.print(f"error: {error}", style="red")
    console.print()


def _recorder(record: Path, seed: int, project: ExitStack) -> tuple[Keep, int]:
    """What keeps a choice in a file or in a project, and the number of choices there."""
    if record.suffix != ".db":
        from preftree.generate.chat import add_choice, count_rows

        def append(talk: Chat, sides: list[Answer], key: str) -> None:
            better = 1 if key == "2" else 0
            add_choice(record, talk, sides[better], sides[1 - better], tie=key in ("t", "b"), both_bad=key == "b")

        return append, count_rows(record)
    import getpass

    from preftree.collect.chat_choices import add_choice_of_chat, count_choices
    from preftree.collect.store import own_project

    store = project.enter_context(own_project(record))  # nobody serves it meanwhile
    person = store.join(getpass.getuser())
    named: dict[str, Side] = {"1": "left", "2": "right", "t": "tie", "b": "bad"}

    def add(talk: Chat, sides: list[Answer], key: str) -> None:
        answers = [(side.speaker, side.text) for side in sides]
        add_choice_of_chat(store, person.id, talk.prompt, answers, named[key], seed)

    return add, count_choices(store)


def _with_adapters(console: Console, model: str, names: list[str]) -> list[Speaker]:
    """A speaker for each adapter, all of them on one base in memory."""
    from preftree.errors import ConfigError
    from preftree.generate.chat import Speaker
    from preftree.models.adapter_folder import adapter_names, find_over
    from preftree.models.adapters import attach_adapters
    from preftree.models.load import load_base, load_tokenizer, remove_dropout
    from preftree.runtime.machine import sampling_device

    adapters = [find_over(model, name) for name in names]
    whole = (Path(model).expanduser() / "config.json").exists() or not adapter_names(Path(model).expanduser())
    if not whole and len({adapter.base for adapter in adapters}) > 1:
        bases = " and ".join(adapter.base for adapter in adapters)
        raise ConfigError(f"adapters {' and '.join(names)} belong to {bases}; give the one model for both as MODEL")
    for adapter in adapters if whole else ():
        if Path(adapter.base).expanduser().resolve() != Path(model).expanduser().resolve():
            console.print(f"{adapter.path} was trained over {adapter.base}, and answers over {model}.", style="dim")
    base = load_base(model if whole else adapters[0], device=sampling_device())
    attach_adapters(base, adapters)
    remove_dropout(base)
    tokenizer = load_tokenizer(model if whole else adapters[0].path)
    return [Speaker(name, base.eval(), tokenizer, index) for index, name in enumerate(names)]


def _converse(console: Console, speaker: Speaker, talk: Chat, sampling: Sampling, number: int) -> Chat:
    from preftree.generate.chat import answer

    console.print("model> ", end="", style="bold")
    reply = answer(speaker, talk, sampling, row=number, show=lambda text: console.print(text, end=""))
    console.print()
    return talk.hear(reply.text)


def _compare(
    console: Console,
    speakers: list[Speaker],
    talk: Chat,
    sampling: Sampling,
    number: int,
    blind: bool,
    record: Path,
    keep: Keep,
    lines: ChatLines,
) -> Chat:
    """Show both answers, ask which is better, record it; the conversation continues with the better one."""
    from preftree.generate.chat import answer, require_text, shuffle_sides

    with console.status("both are answering"):
        sides = [answer(speaker, talk, sampling, row=2 * number + i) for i, speaker in enumerate(speakers)]
    if blind:
        sides = shuffle_sides(sides, seed=sampling.seed, number=number)
    _show(console, sides, blind)
    for side in sides:
        require_text(side)
    if sides[0].text == sides[1].text:
        console.print("Both answers are the same; there is nothing to choose.", style="dim")
        return talk.hear(sides[0].text)
    key = None
    while key not in ("1", "2", "t", "b", "s"):
        key = lines.key(f"{KEYS}\nbetter> ")
        if key is None:
            return talk
    better = 1 if key == "2" else 0
    if key != "s":
        keep(talk, sides, key)
    who = f"1 was {sides[0].speaker}, 2 was {sides[1].speaker}. " if blind else ""
    console.print(f"{who}{'Nothing recorded.' if key == 's' else f'Recorded in {record}.'}", style="dim")
    if key == "b":
        console.print("Neither is the answer: ask again, or otherwise.", style="dim")
        return talk.unasked()
    return talk.hear(sides[better].text)


def _show(console: Console, sides: list[Answer], blind: bool) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(expand=True, padding=(0, 1))
    for _ in sides:
        table.add_column(ratio=1)
    titles = [str(number) if blind else f"{number}: {side.speaker}" for number, side in enumerate(sides, 1)]
    # Texts of a model are shown as they are: no markup in them counts.
    table.add_row(*(Panel(Text(s.text), title=Text(t), title_align="left") for s, t in zip(sides, titles, strict=True)))
    console.print(table)


def _obey(console: Console, talk: Chat, line: str) -> Chat:
    from dataclasses import replace

    word, _, rest = line.partition(" ")
    if word == "/new":
        return replace(talk, turns=())
    if word == "/undo":
        return talk.undo()
    if word == "/system" and talk.templated:
        return replace(talk, system=rest.strip() or None)
    console.print(COMMANDS, style="dim")
    return talk

"""Lines that a person types in a chat: with history and editing on a terminal, as they come elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftree.storage.atomic import make_folder

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import Output
    from rich.console import Console


class ChatLines:
    """Reads what a person says.

    On a terminal arrows edit and bring back earlier lines, of earlier chats too; Enter sends, and Esc Enter, or
    Alt-Enter, begins another line. Where input is no terminal, a line is a message.
    """

    def __init__(
        self, console: Console, history: Path, *, input: Input | None = None, output: Output | None = None
    ) -> None:
        self._console = console
        is_terminal = input is not None or (sys.stdin.isatty() and sys.stdout.isatty())
        self._session = _session(history, input, output) if is_terminal else None

    def message(self, prompt: str) -> str | None:
        """A message without white space around it; None at the end of the input, and at Ctrl-C."""
        if self._session is None:
            return self.key(prompt)
        try:
            return self._session.prompt(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return None

    def key(self, prompt: str) -> str | None:
        """A short answer, which the history does not keep; None as of `message`."""
        try:
            return self._console.input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return None


def _session(history: Path, input: Input | None, output: Output | None) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        make_folder(history.parent)
        history.touch()
        kept: Any = FileHistory(str(history))
    except OSError:  # a chat goes on without
        kept = InMemoryHistory()
    return PromptSession(
        history=kept, key_bindings=_keys(), multiline=True, prompt_continuation="...  ", input=input, output=output
    )


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _another_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return keys

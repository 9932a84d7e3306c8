"""Fill a project: prompts, responses and pairs of files, of models and of chats."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

from preftree.collect.records import Choice, Settings
from preftree.collect.schema import create
from preftree.data.formats.prompts_alone import prompt_of
from preftree.data.rows.conversion import as_kind, check_kind, to_row
from preftree.data.rows.faults import RowFault, Tally, check_share
from preftree.data.rows.fields import Row, text
from preftree.data.rows.raw_row import RawRow
from preftree.data.sources.reader import find_format, find_source, read_rows
from preftree.errors import ConfigError, DataError
from preftree.records import Demonstration, Preference, Text, template_options_of, tools_of

MAX_REJECTED = 0.05
"""Share of rows with faults that a file may have."""

_BESIDE = ("tools", "chat_template_kwargs")


@dataclass(slots=True)
class Filling:
    """Adds to a project in one transaction, and knows what is there already.

    Attributes:
      project: The connection that writes.
      items: Number of each prompt, by its JSON.
      texts: Number of each response, by item and text.
      same: Responses that were there already, or that a pair has twice.
    """

    project: sqlite3.Connection
    items: dict[str, int] = field(default_factory=dict)
    texts: dict[tuple[int, str], int] = field(default_factory=dict)
    same: int = 0

    @classmethod
    def of(cls, project: sqlite3.Connection) -> Filling:
        """What a project has."""
        items = dict(project.execute("SELECT prompt, id FROM item"))
        return cls(
            project, items, {(item, t): n for n, item, t in project.execute("SELECT id, item, text FROM response")}
        )

    def item(self, prompt: Text, group: str | None = None) -> int:
        """The number of a prompt, which is added where it is new."""
        words = prompt_json(prompt)
        if words not in self.items:
            row = (words, group, time.time())
            self.items[words] = _added(self.project, "INSERT INTO item (prompt, slice, added) VALUES (?, ?, ?)", row)
        return self.items[words]

    def response(
        self, item: int, words: str, source: str, *, digest: str | None = None, seed: int | None = None
    ) -> int:
        """The number of a response, which is added where the item has no such text."""
        if (item, words) in self.texts:
            self.same += 1
        else:
            row = (item, words, source, digest, seed)
            insert = "INSERT INTO response (item, text, source, digest, seed) VALUES (?, ?, ?, ?, ?)"
            self.texts[item, words] = _added(self.project, insert, row)
        return self.texts[item, words]

    def pair(self, item: int, first: int, second: int, gold: Choice | None = None) -> None:
        """Add a pair that is not there in either order; a known answer is added to one that is there."""
        if first == second:
            return
        stored = self.project.execute(
            "SELECT id, first FROM pair WHERE (first = ? AND second = ?) OR (first = ? AND second = ?)",
            (first, second, second, first),
        ).fetchone()
        if stored is None:
            insert = "INSERT INTO pair (item, first, second, gold) VALUES (?, ?, ?, ?)"
            self.project.execute(insert, (item, first, second, gold))
        elif gold is not None:
            turned: dict[Choice, Choice] = {"first": "second", "second": "first"}
            known = gold if stored[1] == first else turned.get(gold, gold)
            self.project.execute("UPDATE pair SET gold = ? WHERE id = ?", (known, stored[0]))

    def pair_up(self) -> None:
        """Make a pair of every two responses of an item."""
        groups: dict[int, list[int]] = {}
        for (item, _), number in self.texts.items():
            groups.setdefault(item, []).append(number)
        known = {frozenset(pair) for pair in self.project.execute("SELECT first, second FROM pair")}
        rows = [
            (item, *two)
            for item, numbers in groups.items()
            for two in combinations(sorted(numbers), 2)
            if frozenset(two) not in known
        ]
        self.project.executemany("INSERT INTO pair (item, first, second) VALUES (?, ?, ?)", rows)


def make_project(
    path: Path,
    settings: Settings,
    *,
    password_hash: str,
    prompts: str | None = None,
    pairs: str | None = None,
    responses: tuple[str, ...] = (),
    golds: str | None = None,
) -> list[Tally]:
    """Make a project file.

    Args:
      path: The file, which must not exist.
      settings: What it asks of annotators.
      password_hash: Argon2 hash of the admin's password.
      prompts: A file of prompts alone, for `collect sample`.
      pairs: A data file of preferences or rankings; which side it prefers is not shown and not kept.
      responses: Files of responses as `preftree generate` writes them; each two responses to a prompt are a pair.
      golds: A data file of preferences that are the known answers.
    Returns:
      What was read and rejected of each file, in this order.
    Raises:
      DataError: a file cannot be read or has too many faults, the project exists, or nothing is to be compared.
    """
    if prompts is None and pairs is None and not responses:
        raise ConfigError("a project begins with --prompts, --pairs or --responses; give a file")
    if prompts is not None and not Path(prompts).is_file():
        raise DataError(f"{prompts} does not exist; give a file of prompts")
    project = create(path)
    try:
        project.execute("BEGIN IMMEDIATE")
        values = asdict(settings) | {"secret": secrets.token_hex(32), "password": password_hash, "made": time.time()}
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        project.executemany("INSERT INTO setting (name, value) VALUES (?, ?)", rows)
        filling, tallies = Filling(project), []
        if prompts is not None:
            for prompt, group in _prompts(prompts):
                filling.item(prompt, group)
        for file in responses:
            tallies.append(_add_responses(filling, file))
        if responses:
            filling.pair_up()
        if pairs is not None:
            tallies.append(_add_pairs(filling, pairs, gold=False))
        if golds is not None:
            tallies.append(_add_pairs(filling, golds, gold=True))
        count = project.execute("SELECT count(*) FROM pair").fetchone()[0]
        if prompts is None and not count:
            raise DataError(f"no prompt has two different responses in {', '.join(responses) or pairs}; add responses")
        project.execute("COMMIT")
    except BaseException:
        project.close()
        path.unlink(missing_ok=True)
        raise
    project.close()
    return tallies


def prompt_json(prompt: Text) -> str:
    """A prompt as JSON, with tools and template options beside it: equal texts for equal prompts."""
    row = to_row(Demonstration(prompt, "-")) if prompt != "" else {"prompt": ""}
    row = {"prompt": row["prompt"]}
    row |= {"tools": list(tools_of(prompt))} if tools_of(prompt) else {}
    row |= {"chat_template_kwargs": dict(template_options_of(prompt))} if template_options_of(prompt) else {}
    return json.dumps(row, ensure_ascii=False)


def plain_response(response: Text) -> str:
    """The text of a response: of a conversation, its one next message.

    Raises:
      RowFault: it has several turns, or a turn has more than text.
    """
    if isinstance(response, str):
        return response
    if len(response) != 1 or response[0].rest:
        raise RowFault(
            "wrong_type", "response", "a response of several turns, or of tool calls, cannot be compared here"
        )
    return response[0].content


def _added(project: sqlite3.Connection, insert: str, row: tuple[object, ...]) -> int:
    number = project.execute(insert, row).lastrowid
    assert number is not None
    return number


def _prompts(path: str) -> Iterator[tuple[Text, str | None]]:
    if path.endswith(".txt"):
        lines = [line for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]
        yield from ((line, None) for line in lines)
        return
    source, form = find_source(path), None
    for raw in read_rows(source):
        try:
            row = _row(raw)
            if row.get("prompt") is not None:
                yield prompt_of(row), _slice(row)
            else:
                form = form or find_format(source)
                yield form.read(row).prompt, _slice(row)
        except RowFault as fault:
            raise DataError(f"{raw.where}: {fault}; fix the row") from fault


def _add_pairs(filling: Filling, path: str, *, gold: bool) -> Tally:
    source = find_source(path)
    form = find_format(source)
    check_kind(path, form, "pair", chosen_side=False)
    if form.group is not None:
        raise DataError(f"{path} holds {form.title}; turn it into pairs with `preftree data convert --kind pair` first")
    tally, stem = Tally(), Path(path).name.partition(".")[0]
    for raw in read_rows(source):
        tally.rows += 1
        try:
            row = _row(raw)
            for record in as_kind(form.read(row), "pair", chosen_side=False):
                assert isinstance(record, Preference)
                words = [plain_response(record.chosen), plain_response(record.rejected)]
                names = [text(row.get(f"{s}_model", f"{stem}: {s}"), f"{s}_model") for s in ("chosen", "rejected")]
                item = filling.item(record.prompt, _slice(row))
                numbers = [filling.response(item, w, name) for w, name in zip(words, names, strict=True)]
                filling.pair(item, *numbers, gold=("tie" if record.tie else "first") if gold else None)
        except RowFault as fault:
            tally.reject(raw.where, fault)
    check_share(path, tally.rows, tally.faults, tally.rejected, MAX_REJECTED)
    return tally


def _add_responses(filling: Filling, path: str) -> Tally:
    tally, stem = Tally(), Path(path).name.partition(".")[0]
    for raw in read_rows(find_source(path)):
        tally.rows += 1
        try:
            row = _row(raw)
            prompt = prompt_of({name: row[name] for name in ("prompt", "system", *_BESIDE) if name in row})
            given = row.get("responses", [row.get("response", row.get("completion"))])
            if not isinstance(given, list):
                raise RowFault("wrong_type", "responses", "'responses' must be a list of texts")
            words, name = [_one_response(value) for value in given], text(row.get("model", stem), "model")
            item = filling.item(prompt, _slice(row))
            for word in words:
                filling.response(item, word, name)
        except RowFault as fault:
            tally.reject(raw.where, fault)
    check_share(path, tally.rows, tally.faults, tally.rejected, MAX_REJECTED)
    return tally


def _one_response(value: object) -> str:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if value is None:
        raise RowFault("missing_field", "response", "'response' is missing")
    words = text(value, "response")
    if not words.strip():
        raise RowFault("empty_response", "response", "'response' is empty")
    return words


def _row(raw: RawRow) -> Row:
    if isinstance(raw.row, RowFault):
        raise raw.row
    return raw.row


def _slice(row: Row) -> str | None:
    return text(row["slice"], "slice") if row.get("slice") is not None else None

"""Open Assistant: trees of turns, a row a tree (`replies`) or a row a message (`parent_id`), with ranks among siblings.

Wherever the assistant gave two answers or more that are ranked, the turns before them and these answers are a ranking;
rank 0 is best. Deleted messages and answers without a rank take no part; turns with fewer ranked answers are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from preftree.data.formats import ranking
from preftree.data.rows.faults import RowFault, Tally
from preftree.data.rows.fields import Row
from preftree.data.rows.format import has, make_format
from preftree.data.rows.raw_row import RawRow

_ROLES = ("prompter", "assistant")
_NONE = (None, "")
_READ = {"message_id", "parent_id", "message_tree_id", "role", "text", "rank", "deleted", "replies"}


def detect_messages(row: Row) -> bool:
    """Whether a row is one message of a tree."""
    names = isinstance(row.get("message_id"), str) and isinstance(row.get("parent_id"), str | None)
    return "parent_id" in row and names and has(row, "text") and row.get("role") in _ROLES


def detect_trees(row: Row) -> bool:
    """Whether a row is a tree of turns."""
    return isinstance(row.get("prompt"), dict) and isinstance(row["prompt"].get("replies"), list)


def rankings_of_trees(rows: Iterator[RawRow], tally: Tally) -> Iterator[RawRow]:
    """A row for each ranking of each tree."""
    for raw in rows:
        if isinstance(raw.row, RowFault) or not detect_trees(raw.row):
            yield raw
        else:
            tally.unread.update(_unread(raw.row, {"prompt"}) | _unread_below(raw.row["prompt"]))
            yield from _rankings(raw, raw.row["prompt"], tally)


def rankings_of_messages(rows: Iterator[RawRow], tally: Tally) -> Iterator[RawRow]:
    """A row for each ranking among messages whose trees come one after another; one tree at a time is held."""
    tree: list[tuple[RawRow, Row]] = []
    for raw in rows:
        if isinstance(raw.row, RowFault) or not detect_messages(raw.row):
            yield raw
            continue
        if tree and tree[0][1].get("message_tree_id") != raw.row.get("message_tree_id"):
            yield from _planted(tree, tally)
            tree = []
        tally.unread.update(_unread(raw.row, _READ))
        tree.append((raw, raw.row))
    yield from _planted(tree, tally)


def _unread(row: Mapping[str, Any], read: set[str]) -> set[str]:
    """Fields of a row that are not empty and not read."""
    return {name for name, value in row.items() if name not in read and value not in (None, "", [], {})}


def _unread_below(root: Mapping[str, Any]) -> set[str]:
    """Fields of the turns of a tree that are not read, each named once."""
    names: set[str] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        names |= {f"prompt.{name}" for name in _unread(node, _READ)}
        replies = node.get("replies")
        waiting += [reply for reply in replies if isinstance(reply, dict)] if isinstance(replies, list) else []
    return names


def _planted(tree: Sequence[tuple[RawRow, Row]], tally: Tally) -> Iterator[RawRow]:
    """The rankings of the messages of one tree; a message that no first one leads to is a fault."""
    nodes = {row["message_id"]: row | {"replies": []} for _, row in tree}
    for _, row in tree:
        if row["parent_id"] in nodes:
            nodes[row["parent_id"]]["replies"].append(nodes[row["message_id"]])
    for raw, row in tree:
        if not _has_root(row, nodes):
            message = "'parent_id' leads to no first message among the rows around it; keep the rows of a tree together"
            yield RawRow(raw.where, RowFault("bad_value", "parent_id", message))
        elif row["parent_id"] in _NONE:
            yield from _rankings(raw, nodes[row["message_id"]], tally)


def _has_root(row: Row, nodes: Mapping[str, Row]) -> bool:
    """Whether the parents of a message lead to a first one; they may lead out of the tree, or round in it."""
    passed: set[str] = set()
    while row["parent_id"] not in _NONE:
        if row["parent_id"] not in nodes or row["parent_id"] in passed:
            return False
        passed.add(row["parent_id"])
        row = nodes[row["parent_id"]]
    return True


def _rankings(raw: RawRow, root: Mapping[str, Any], tally: Tally) -> Iterator[RawRow]:
    """The rankings of a tree, depth first; no recursion, since a dialogue may be long."""
    waiting: list[tuple[Mapping[str, Any], list[Row]]] = [(root, [])]
    while waiting:
        node, before = waiting.pop()
        role = "user" if node.get("role") == "prompter" else "assistant"
        turns = [*before, {"role": role, "content": node.get("text")}]
        children = node.get("replies") if isinstance(node.get("replies"), list) else []
        replies = [reply for reply in children or [] if isinstance(reply, dict) and not reply.get("deleted")]
        answers = [reply for reply in replies if reply.get("role") == "assistant"]
        ranked = [reply for reply in answers if reply.get("rank") not in _NONE]
        if len(ranked) > 1:
            responses, ranks = [reply.get("text") for reply in ranked], [reply["rank"] for reply in ranked]
            yield replace(raw, row={"messages": turns, "responses": responses, "ranks": ranks})
        elif answers:
            tally.note("lone_answer", raw.where)
        waiting += [(reply, turns) for reply in reversed(replies)]


_FIELDS = ("messages", "responses", "ranks")

FORMATS = (
    make_format(
        "oasst_trees",
        "list",
        "Open Assistant trees",
        detect_trees,
        ranking.read,
        _FIELDS,
        group=rankings_of_trees,
    ),
    make_format(
        "oasst",
        "list",
        "Open Assistant messages",
        detect_messages,
        ranking.read,
        _FIELDS,
        group=rankings_of_messages,
    ),
)

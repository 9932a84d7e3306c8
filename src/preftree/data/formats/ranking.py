"""{"prompt": "...", "responses": [...]}: best first, or ordered by `scores` (more is better) or `ranks` (1 is best)."""

from __future__ import annotations

from collections.abc import Sequence

from preftree.data.records.faults import RowFault
from preftree.data.records.fields import (
    Row,
    check_differ,
    items,
    messages,
    number,
    present,
    prompt_messages,
    response_messages,
    response_text,
    take,
    text,
    weight,
)
from preftree.records import Ranking, Text


def detect(row: Row) -> bool:
    """Whether there is a list of responses to a prompt."""
    return "prompt" in row and isinstance(row.get("responses"), list)


def read(row: Row) -> Ranking:
    """One ranking of plain texts, or of message lists."""
    prompt_value = present(row, "prompt")[1]
    chat = isinstance(prompt_value, list)
    prompt: Text = prompt_messages(messages(prompt_value, "prompt"), "prompt") if chat else text(prompt_value, "prompt")
    named: list[tuple[str, Text]] = []
    for index, value in enumerate(take(row, items, "responses")):
        where = f"responses[{index}]"
        named.append((where, response_messages(messages(value, where), where) if chat else response_text(value, where)))
    scores, ranks = row.get("scores"), row.get("ranks")
    if scores is not None:
        return rank(row, prompt, named, _numbers(scores, "scores", len(named)))
    if ranks is None:
        return rank(row, prompt, named, None)
    order = _numbers(ranks, "ranks", len(named))
    if len(set(order)) < len(order):
        raise RowFault(
            "bad_value", "ranks", "'ranks' holds a rank twice; give 'scores' where responses are equally good"
        )
    return rank(row, prompt, [named[i] for i in sorted(range(len(order)), key=order.__getitem__)], None)


def rank(
    row: Row, prompt: Text, named: Sequence[tuple[str, Text]], scores: Sequence[float] | None, field: str = "responses"
) -> Ranking:
    """A ranking, best first; responses of equal score keep their order."""
    if len(named) < 2 or (scores is not None and len(set(scores)) < 2):
        raise RowFault("no_preference", field, f"'{field}' has no two responses that differ in rank")
    check_differ(tuple(named))
    if scores is None:
        return Ranking(prompt, tuple(response for _, response in named), None, weight(row))
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return Ranking(prompt, tuple(named[i][1] for i in order), tuple(scores[i] for i in order), weight(row))


def _numbers(value: object, where: str, count: int) -> list[float]:
    numbers = [number(item, f"{where}[{index}]") for index, item in enumerate(items(value, where))]
    if len(numbers) != count:
        raise RowFault("bad_value", where, f"'{where}' has {len(numbers)} numbers for {count} responses")
    return numbers

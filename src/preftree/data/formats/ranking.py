"""{"prompt": "...", "responses": [...]}: best first, or ordered by `scores` (more is better) or `ranks` (1 is best)."""

from __future__ import annotations

from collections.abc import Sequence

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import (
    Row,
    check_differ,
    figures,
    items,
    messages,
    numbers,
    present,
    prompt_messages,
    response_messages,
    response_text,
    take,
    text,
    weight,
)
from preftree.records import Figures, Ranking, Text, select_responses


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
    row_figures = figures(row, "list", len(named))
    if "scores" in row_figures or row.get("ranks") is None:
        return rank(row, prompt, named, row_figures)
    ranks = numbers(row["ranks"], "ranks", len(named))
    if len(set(ranks)) < len(ranks):
        raise RowFault(
            "bad_value", "ranks", "'ranks' holds a rank twice; give 'scores' where responses are equally good"
        )
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    return rank(row, prompt, [named[i] for i in order], select_responses(row_figures, order))


def rank(
    row: Row, prompt: Text, named: Sequence[tuple[str, Text]], row_figures: Figures, field: str = "responses"
) -> Ranking:
    """A ranking, ordered by its scores if it has any; responses of equal score keep their order.

    Args:
      row: The row, with its weight.
      prompt: The prompt.
      named: The responses under the names of their fields, best first where there are no scores.
      row_figures: Figures, in the order of `named`.
      field: The field that holds the responses.
    """
    scores = row_figures.get("scores")
    if len(named) < 2 or (scores is not None and len(set(scores)) < 2):
        raise RowFault("no_preference", field, f"'{field}' has no two responses that differ in rank")
    check_differ(tuple(named))
    order = list(range(len(named)))
    if scores is not None:
        order.sort(key=lambda index: -scores[index])
    return Ranking(prompt, tuple(named[i][1] for i in order), weight(row), select_responses(row_figures, order))

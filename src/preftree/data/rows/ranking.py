"""A ranking of named responses."""

from __future__ import annotations

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, check_differ, weight
from preftree.records import Figures, Ranking, Text, select_responses


def rank(row: Row, prompt: Text, named: list[tuple[str, Text]], given: Figures, field: str = "responses") -> Ranking:
    """A ranking, ordered by its scores where it has any; responses of equal score keep their order.

    Args:
      row: Gives the weight.
      prompt: The prompt.
      named: The responses under the names of their fields, best first where there are no scores.
      given: Figures, in the order of `named`.
      field: The field that holds the responses.
    """
    scores = given.get("scores")
    if len(named) < 2 or (scores is not None and len(set(scores)) < 2):
        raise RowFault("no_preference", field, f"'{field}' has no two responses that differ in rank")
    check_differ(tuple(named))
    order = list(range(len(named)))
    if scores is not None:
        order.sort(key=lambda index: -scores[index])
    return Ranking(prompt, tuple(named[i][1] for i in order), weight(row), select_responses(given, order))

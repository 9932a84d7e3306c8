"""{"info": {...}, "summaries": [{"text": "..."}, {"text": "..."}], "choice": 0}: comparisons of summaries.

The prompt is the text from which the summaries were sampled, ending in "TL;DR:"; a summary follows after one space.
Source: Stiennon et al. 2020, arXiv:2009.01325, and the query format of its published code.
"""

from __future__ import annotations

from typing import Any

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, number, preference, present, response_text, take, text
from preftree.data.rows.format import make_format
from preftree.records import Preference


def detect(row: Row) -> bool:
    """Whether there are summaries and a choice."""
    return {"info", "summaries", "choice"} <= row.keys()


def read(row: Row) -> Preference:
    """One pair of summaries of a post or an article."""
    prompt = _prompt(present(row, "info")[1])
    summaries = present(row, "summaries")[1]
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise RowFault("wrong_type", "summaries", "'summaries' must be a list of two")
    sides = []
    for index, summary in enumerate(summaries):
        where = f"summaries[{index}].text"
        value = summary.get("text") if isinstance(summary, dict) else summary
        sides.append((where, f" {response_text(value, where).strip()}"))
    choice = take(row, number, "choice")
    if choice not in (0, 1):
        raise RowFault("bad_value", "choice", f"'choice' must be 0 or 1, got {choice:g}")
    chosen, rejected = sides if choice == 0 else reversed(sides)
    return preference({"weight": row.get("weight")}, prompt, chosen, rejected)


def _prompt(info: Any) -> str:
    if not isinstance(info, dict):
        raise RowFault("wrong_type", "info", "'info' must be an object")
    names = ("subreddit", "title", "post", "article")
    part = {name: text(info[name], f"info.{name}") for name in names if info.get(name)}
    if "post" in part:
        head = [f"SUBREDDIT: r/{part['subreddit']}"] if "subreddit" in part else []
        head += [f"TITLE: {part['title']}"] if "title" in part else []
        return "\n\n".join([*head, f"POST: {part['post']}", "TL;DR:"])
    if "article" in part:
        return f"Article:\n\n{part['article']}\n\nTL;DR:"
    raise RowFault("missing_field", "info.post", "'info.post' or 'info.article' is missing")


FORMAT = make_format(
    "tldr", "pair", "TL;DR comparisons of summaries", detect, read, ("info", "summaries", "choice"), beside=("weight",)
)

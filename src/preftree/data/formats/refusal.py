"""The sentence for a file of no known format: its fields, and the line that would read it where that can be guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from preftree.data.rows.fields import Row

_GUESSES = (
    ("prompt", ("prompt", "question", "instruction", "query", "input", "context", "problem", "post", "title")),
    ("messages", ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat")),
    ("chosen", ("chosen", "better", "preferred", "accepted", "positive", "good", "win", "best", "response_j")),
    ("rejected", ("rejected", "worse", "dispreferred", "negative", "bad", "lose", "loser", "worst", "response_k")),
    (
        "a",
        (
            "response_a",
            "answer_a",
            "output_a",
            "model_a_response",
            "answer1",
            "response1",
            "response_1",
            "output_1",
            "a",
        ),
    ),
    (
        "b",
        (
            "response_b",
            "answer_b",
            "output_b",
            "model_b_response",
            "answer2",
            "response2",
            "response_2",
            "output_2",
            "b",
        ),
    ),
    ("winner", ("winner", "preference", "preferred", "choice", "verdict", "label", "better")),
    ("response", ("response", "answer", "completion", "output", "target", "solution", "summary", "reply")),
)


def refusal(rows: Sequence[Row]) -> str:
    """Why none of the formats reads rows like these, and what to do."""
    names = Counter(name for row in rows for name, value in row.items() if value is not None)
    shown = [ascii(name[:40]) for name, _ in names.most_common(20)]
    fields = ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    for name in ("messages", "conversations", "chosen", "prompt"):
        if any(isinstance(row.get(name), str) and row[name].lstrip().startswith("[{") for row in rows):
            return (
                f"field '{name}' is a message list written out as text; give it as a list (JSON lines can, CSV cannot)"
            )
    if {"completions", "labels"} <= names.keys():
        return "'labels' are labels of single steps, and no loss here takes such; give one label for a whole response"
    sides = [row for row in rows if isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str)]
    if len(sides) == len(rows) and not {"prompt", "question"} & names.keys():
        return (
            "chosen and rejected come without their prompt, and a common beginning would be a guess; add a field "
            "'prompt', or name it: --columns prompt=FIELD,chosen=chosen,rejected=rejected"
        )
    line = guess(rows)
    advice = f"if they are what they seem, --columns {line} reads them" if line else "say what each is with --columns"
    return (
        f"rows with the fields {fields} are of no known format; {advice} (targets: prompt, messages, system, chosen, "
        "rejected, a, b, winner, response, label, responses, scores, ranks)"
    )


def guess(rows: Sequence[Row]) -> str | None:
    """A mapping for rows of no known format, from the names of their fields; None where nothing fits."""
    names = {name.lower(): name for row in rows for name, value in row.items() if value is not None}
    found: dict[str, str] = {}
    for target, usual in _GUESSES:
        field = next((names[name] for name in usual if name in names and names[name] not in found.values()), None)
        if field is not None:
            found[target] = field
    prompt = next(({name: found[name]} for name in ("messages", "prompt") if name in found), None)
    if prompt is None:
        return None
    if {"chosen", "rejected"} <= found.keys():
        chosen = {"chosen": found["chosen"], "rejected": found["rejected"]}
    elif {"a", "b", "winner"} <= found.keys():
        words = _words([row.get(found["winner"]) for row in rows])
        chosen = {"a": found["a"], "b": found["b"], "winner": f"{found['winner']}:{words}"}
    elif "response" in found:
        chosen = {"response": found["response"]}
    elif "messages" in prompt:
        chosen = {}
    else:
        return None
    return ",".join(f"{target}={field}" for target, field in {**prompt, **chosen}.items())


def _words(values: Sequence[Any]) -> str:
    """The values of a verdict in the order a, b, tie, as far as they can be told apart."""
    words = sorted({str(value) for value in values if value is not None})[:4]
    ties = [word for word in words if any(sign in word.lower() for sign in ("tie", "both", "equal", "draw"))]
    return "|".join([word for word in words if word not in ties] + ties) or "A|B|TIE"

"""Table of the formats of data files; each has a file in this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from preftree.data.formats import (
    conversational,
    explicit,
    hh,
    messages,
    plain,
    prompt_completion,
    ranking,
    shp,
    tldr,
    tldr_pairs,
    ultrafeedback,
    unpaired,
)
from preftree.data.rows.fields import Row
from preftree.records import Kind, Record


@dataclass(frozen=True, slots=True)
class Format:
    """One format: detection and reading of its rows.

    Attributes:
      name: The name in messages and for `--format`.
      kind: Kind of the records.
      title: The format in a few words.
      detect: Test whether a row has this format, by its field names.
      read: Conversion of a row to a record; raises RowFault.
    """

    name: str
    kind: Kind
    title: str
    detect: Callable[[Row], bool]
    read: Callable[[Row], Record]


_ALL = (  # of formats that match equally many rows, the first is used
    Format("conversational", "pair", "message lists chosen and rejected", conversational.detect, conversational.read),
    Format("tldr_pairs", "pair", "TL;DR comparisons as pairs", tldr_pairs.detect, tldr_pairs.read),
    Format("explicit", "pair", "prompt, chosen and rejected as text", explicit.detect, explicit.read),
    Format("hh", "pair", "HH transcripts, cut at the last assistant turn", hh.detect, hh.read),
    Format("shp", "pair", "Stanford Human Preferences", shp.detect, shp.read),
    Format("tldr", "pair", "TL;DR comparisons of summaries", tldr.detect, tldr.read),
    Format("ultrafeedback", "list", "scored completions of an instruction", ultrafeedback.detect, ultrafeedback.read),
    Format("ranking", "list", "responses to a prompt, ranked or scored", ranking.detect, ranking.read),
    Format("unpaired", "response", "single responses, liked or not", unpaired.detect, unpaired.read),
    Format(
        "prompt_completion", "demonstration", "prompt and completion", prompt_completion.detect, prompt_completion.read
    ),
    Format("messages", "demonstration", "conversations", messages.detect, messages.read),
    Format("text", "demonstration", "plain text", plain.detect, plain.read),
)
FORMATS: dict[str, Format] = {form.name: form for form in _ALL}

"""{"prompt": "SUBREDDIT: ...\\nPOST: ...", "chosen": "TL;DR: ...", "rejected": "TL;DR: ..."}: CarperAI's TL;DR pairs.

The comparisons of Stiennon et al. 2020 (arXiv:2009.01325) as CarperAI published them: both responses begin with the
"TL;DR:" that ends a prompt. It is moved back there, to a separate line, as in the prompts of their fine-tuned model.
"""

from __future__ import annotations

from preftree.data.formats import collected
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, preference, response_text, take, text
from preftree.data.rows.format import make_format
from preftree.data.rows.parts import NUMBERS
from preftree.records import Preference

TLDR = "TL;DR:"


def detect(row: Row) -> bool:
    """Whether both responses begin with "TL;DR:", and the prompt does not end with it."""
    for name in ("chosen", "rejected"):
        side = row.get(name)
        if not (isinstance(side, str) and side.lstrip().startswith(TLDR)):
            return False
    prompt = row.get("prompt")
    return isinstance(prompt, str) and not prompt.rstrip().endswith(TLDR) and not collected.detect(row)


def read(row: Row) -> Preference:
    """One pair; a summary follows its prompt after one space."""
    prompt = f"{take(row, text, 'prompt').rstrip()}\n{TLDR}"
    chosen, rejected = ((name, f" {take(row, _summary, name)}") for name in ("chosen", "rejected"))
    return preference(row, prompt, chosen, rejected)


def _summary(value: object, where: str) -> str:
    summary = response_text(value, where).strip()
    if not summary.startswith(TLDR):
        raise RowFault("bad_value", where, f"'{where}' does not begin with {TLDR} as other rows do")
    return response_text(summary.removeprefix(TLDR), where).strip()


FORMAT = make_format(
    "tldr_pairs", "pair", "TL;DR comparisons as pairs", detect, read, ("prompt", "chosen", "rejected"), beside=NUMBERS
)

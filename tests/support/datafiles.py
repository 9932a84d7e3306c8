"""Data files for tests: rows written in each file type, and one row of each format."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preftree.data.rows.faults import Rejected, Tally
from preftree.data.sources.reader import find_format, find_source, read_records
from preftree.records import Record

Row = dict[str, Any]


def write_rows(path: Path, rows: Sequence[Row]) -> str:
    """Rows in the file type that the name says."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".jsonl":
        path.write_text(lines)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows), indent=1))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(list(rows)), path, write_page_checksum=True)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def read_all(path: str, format_name: str | None = None) -> tuple[list[Record], Tally]:
    """Every accepted record, and the tally of the rest."""
    tally = Tally(keep=10_000)
    source = find_source(path)
    records = [record for _, record in read_records(source, find_format(source, format_name), tally)]
    return records, tally


def one_fault(path: str, format_name: str | None = None) -> Rejected:
    """The only rejected row of a file."""
    _, tally = read_all(path, format_name)
    (rejected,) = tally.rejected
    return rejected


def said(role: str, content: str, **more: object) -> Row:
    return {"role": role, "content": content, **more}


HH = {
    "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.\n\nHuman: Who?\n\nAssistant: I think it is good.",
    "rejected": "\n\nHuman: Hi?\n\nAssistant: Yes.\n\nHuman: Who?\n\nAssistant: I think it is bad.",
}
EXAMPLES: dict[str, Row] = {
    "explicit": {"prompt": "2+2=", "chosen": " 4", "rejected": " 5", "weight": 2, "margin": 0.5},
    "conversational": {
        "prompt": [said("system", "Be brief."), said("user", "2+2?")],
        "chosen": [said("assistant", "4")],
        "rejected": [said("assistant", "5")],
    },
    "hh": HH,
    "shp": {
        "history": "How do I boil an egg?",
        "human_ref_A": "In water.",
        "human_ref_B": "In oil.",
        "labels": 0,
        "score_A": 2,
        "score_B": 8,
        "score_ratio": 4.0,
    },
    "tldr_pairs": {
        "prompt": "SUBREDDIT: r/AskReddit\nTITLE: A cat\nPOST: I saw a cat.",
        "chosen": "TL;DR:  A cat was seen.",
        "rejected": "TL;DR:  A dog.",
    },
    "tldr": {
        "info": {"subreddit": "AskReddit", "title": "A cat", "post": "I saw a cat."},
        "summaries": [{"text": " A dog."}, {"text": " A cat was seen."}],
        "choice": 1,
    },
    "ultrafeedback": {
        "instruction": "Name a colour.",
        "completions": [
            {"response": "Seven.", "overall_score": 1.0},
            {"response": "Red.", "overall_score": 9.0},
            {"response": "Blue.", "overall_score": 7.5},
            {"response": "Green.", "overall_score": 7.5},
        ],
    },
    "ranking": {"prompt": "Count:", "responses": [" 1 2 3", " 1 3 2", " x"], "scores": [2.0, 1.0, -1.0]},
    "unpaired": {"prompt": "2+2=", "completion": " 5", "label": False},
    "prompt_completion": {"prompt": "2+2=", "completion": " 4"},
    "messages": {"messages": [said("user", "a?"), said("assistant", "b"), said("user", "c?"), said("assistant", "d")]},
    "text": {"text": "It was a dark night."},
}

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
OASST: list[Row] = [
    {
        "message_id": name,
        "parent_id": parent,
        "message_tree_id": "t1",
        "role": role,
        "text": text,
        "rank": rank,
        "lang": "en",
    }
    for name, parent, role, text, rank in (
        ("t1", None, "prompter", "Is ice cold?", None),
        ("m1", "t1", "assistant", "It is hot.", 1),
        ("m2", "t1", "assistant", "Yes.", 0),
    )
]
EXAMPLES: dict[str, Row] = {
    "explicit": {"prompt": "2+2=", "chosen": " 4", "rejected": " 5", "weight": 2, "margin": 0.5},
    "collected": {
        "prompt": "Is ice cold?",
        "chosen": "Yes.",
        "rejected": "It is hot.",
        "win_prob": 0.75,
        "weight": 2,
        "votes": [{"by": "a1", "choice": "chosen", "side": "left", "ms": 900}, {"by": "a2", "choice": "rejected"}],
        "slice": "physics",
        "alpha_slice": 0.4,
        "source": {"chosen": {"model": "m"}, "rejected": {"model": "n"}},
        "pair": 3,
    },
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
    "messages_pair": {
        "system": "Be brief.",
        "conversations": [{"from": "human", "value": "Is ice cold?"}],
        "chosen": {"from": "gpt", "value": "Yes."},
        "rejected": {"from": "gpt", "value": "It is hot."},
    },
    "messages_label": {"messages": [said("user", "Is ice cold?"), said("assistant", "It is hot.")], "label": False},
    "question_pair": {
        "system": "Be brief.",
        "question": "Is ice cold?",
        "chosen": "Yes.",
        "rejected": "It is hot.",
        "chosen_score": 8,
        "rejected_score": 6.5,
    },
    "preferred_output": {
        "input": {"messages": [said("user", "Is ice cold?")], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [said("assistant", "Yes.")],
        "non_preferred_output": [said("assistant", "It is hot.")],
    },
    "stack_exchange": {"question": "Is ice cold?", "response_j": "Yes.", "response_k": "It is hot.", "qid": 7},
    "arena": {
        "question_id": "x1",
        "model_a": "m1",
        "model_b": "m2",
        "winner": "model_b",
        "conversation_a": [said("user", "Is ice cold?"), said("assistant", "It is hot.")],
        "conversation_b": [said("user", "Is ice cold?"), said("assistant", "Yes.")],
    },
    "arena_columns": {
        "id": 3,
        "prompt": '["Is ice cold?", "And snow?"]',
        "response_a": '["Yes.", "Yes, too."]',
        "response_b": '["Yes.", "No."]',
        "winner_model_a": 1,
        "winner_model_b": 0,
        "winner_tie": 0,
    },
    "argilla": {
        "fields": {"prompt": "Is ice cold?", "response_1": "It is hot.", "response_2": "Yes."},
        "responses": {"preference": [{"value": "response_2", "user_id": "u1"}]},
        "suggestions": {"preference": {"value": "response_1", "agent": "m1"}},
        "metadata": {"lang": "en"},
    },
    "argilla_ranking": {
        "prompt": "Is ice cold?",
        "response1": "It is hot.",
        "response2": "Yes.",
        "response3": "Perhaps.",
        "preference": [
            {
                "user_id": "u1",
                "status": "submitted",
                "value": [
                    {"rank": 1, "value": "response2"},
                    {"rank": 2, "value": "response3"},
                    {"rank": 3, "value": "response1"},
                ],
            }
        ],
    },
    "chosen_lists": {"prompt": "Is ice cold?", "chosen": ["Yes."], "rejected": ["It is hot.", "No."], "num_correct": 1},
    "saferlhf": {
        "prompt": "Is ice cold?",
        "response_0": "It is hot.",
        "response_1": "Yes.",
        "better_response_id": 1,
        "safer_response_id": 0,
    },
    "helpsteer3": {
        "context": [said("user", "Is ice cold?")],
        "response1": "Yes.",
        "response2": "It is hot.",
        "overall_preference": -2,
        "domain": "general",
    },
    "helpsteer2_pair": {
        "prompt": "Is ice cold?",
        "response_1": "It is hot.",
        "response_2": "Yes.",
        "preference_strength": 3,
    },
    "label_studio_min": {
        "prompt": "Is ice cold?",
        "answer1": "Yes.",
        "answer2": "It is hot.",
        "comparison": {"selected": "left"},
        "annotator": 2,
    },
    "label_studio": {
        "id": 4,
        "data": {"prompt": "Is ice cold?", "answer1": "It is hot.", "answer2": "Yes."},
        "annotations": [{"id": 1, "result": [{"value": {"selected": "right"}, "type": "pairwise"}]}],
    },
    "oasst_trees": {
        "message_tree_id": "t1",
        "prompt": {
            "message_id": "t1",
            "role": "prompter",
            "text": "Is ice cold?",
            "replies": [
                {"message_id": "m1", "role": "assistant", "text": "It is hot.", "rank": 1, "replies": []},
                {"message_id": "m2", "role": "assistant", "text": "Yes.", "rank": 0, "replies": []},
            ],
        },
    },
    "oasst": OASST[0],
    "instruction": {
        "system": "Be brief.",
        "instruction": "Translate.",
        "input": "Eis",
        "output": "ice",
        "history": [["Hello.", "Hi."]],
    },
    "instruction_pair": {"instruction": "Is ice cold?", "input": "", "chosen": "Yes.", "rejected": "It is hot."},
    "instruction_label": {"instruction": "Is ice cold?", "input": "", "output": "It is hot.", "kto_tag": False},
    "text": {"text": "It was a dark night."},
}


def example_rows(name: str) -> list[Row]:
    """The rows of a file of a format that make one record."""
    return OASST if name == "oasst" else [EXAMPLES[name]]

"""Each format: what a row of it says, by hand, and which rows are not of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from preftree.data.formats import FORMATS
from preftree.data.sources.source import find_format, find_source
from preftree.errors import DataError
from preftree.records import Demonstration, Label, Message, Preference, Ranking
from support.datafiles import EXAMPLES, HH, one_fault, read_all, said, write_rows

U, A = (lambda text: Message("user", text)), (lambda text: Message("assistant", text))

EXPECTED = {
    "explicit": Preference("2+2=", " 4", " 5", weight=2.0, margin=0.5),
    "conversational": Preference((Message("system", "Be brief."), U("2+2?")), (A("4"),), (A("5"),)),
    # The shared beginning "I think it is" belongs to the responses, not to the prompt.
    "hh": Preference(
        "\n\nHuman: Hi?\n\nAssistant: Yes.\n\nHuman: Who?\n\nAssistant:", " I think it is good.", " I think it is bad."
    ),
    "shp": Preference((U("How do I boil an egg?"),), (A("In oil."),), (A("In water."),), margin=math.log(4)),
    "tldr_pairs": Preference(
        "SUBREDDIT: r/AskReddit\nTITLE: A cat\nPOST: I saw a cat.\nTL;DR:", " A cat was seen.", " A dog."
    ),
    "tldr": Preference(
        "SUBREDDIT: r/AskReddit\n\nTITLE: A cat\n\nPOST: I saw a cat.\n\nTL;DR:", " A cat was seen.", " A dog."
    ),
    "ultrafeedback": Ranking(
        (U("Name a colour."),), ((A("Red."),), (A("Blue."),), (A("Green."),), (A("Seven."),)), (9.0, 7.5, 7.5, 1.0)
    ),
    "ranking": Ranking("Count:", (" 1 2 3", " 1 3 2", " x"), (2.0, 1.0, -1.0)),
    "unpaired": Label("2+2=", " 5", False),
    "prompt_completion": Demonstration("2+2=", " 4"),
    "messages": Demonstration((U("a?"), A("b"), U("c?")), (A("d"),)),
    "text": Demonstration("", "It was a dark night."),
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_detected_and_read(name: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES[name]])
    assert find_format(find_source(path)).name == name
    records, tally = read_all(path)
    assert records == [EXPECTED[name]]
    assert tally.accepted == tally.rows == 1


FLAT = [name for name, row in EXAMPLES.items() if not any(isinstance(value, list | dict) for value in row.values())]
TYPES = [(name, suffix) for name in FORMATS for suffix in (".jsonl.gz", ".json", ".parquet")]


@pytest.mark.parametrize(("name", "suffix"), [*TYPES, *((name, ".csv") for name in FLAT)])
def test_the_file_type_does_not_change_the_record(name: str, suffix: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / f"rows{suffix}", [EXAMPLES[name]])
    assert find_format(find_source(path)).name == name
    assert read_all(path)[0] == [EXPECTED[name]]


def change(name: str, **fields: Any) -> dict[str, Any]:
    """The example row with some fields changed; None takes a field out."""
    row = EXAMPLES[name] | fields
    return {key: value for key, value in row.items() if value is not None}


CONVERSATION = [said("user", "a?"), said("assistant", "b"), said("user", "c?")]
FAULTY = [
    ("explicit", {"chosen": "  \n"}, "empty_response", "chosen"),
    ("explicit", {"rejected": ""}, "empty_response", "rejected"),
    ("explicit", {"chosen": " 5 "}, "same_responses", "rejected"),
    ("explicit", {"prompt": 7}, "wrong_type", "prompt"),
    ("explicit", {"chosen": None}, "missing_field", "chosen"),
    ("explicit", {"prompt": "a\0b"}, "bad_text", "prompt"),
    ("explicit", {"chosen": "\ud800"}, "bad_text", "chosen"),
    ("explicit", {"chosen": "caf\ufffd"}, "bad_text", "chosen"),
    ("explicit", {"prompt": '[{"role": "user", "content": "x"}]'}, "wrong_type", "prompt"),
    ("explicit", {"weight": 0}, "bad_value", "weight"),
    ("explicit", {"weight": float("nan")}, "bad_value", "weight"),
    ("explicit", {"margin": float("inf")}, "bad_value", "margin"),
    ("explicit", {"margin": -1}, "bad_value", "margin"),
    ("explicit", {"margin": True}, "wrong_type", "margin"),
    ("explicit", {"margin": None, "score_chosen": 1, "score_rejected": 2}, "bad_value", "score_chosen"),
    ("explicit", {"margin": None, "score_chosen": 1e308, "score_rejected": -1e308}, "bad_value", "score_chosen"),
    ("explicit", {"weight": 10**400}, "bad_value", "weight"),
    ("explicit", {"tie": "maybe"}, "bad_value", "tie"),
    ("conversational", {"chosen": [said("assistant", " ")]}, "empty_response", "chosen"),
    ("conversational", {"chosen": [said("user", "2+2?"), said("assistant", "4")]}, "prompts_differ", "chosen"),
    ("conversational", {"chosen": [said("assistant", "4"), said("user", "ok")]}, "bad_messages", "chosen"),
    ("conversational", {"chosen": [said("robot", "4")]}, "bad_messages", "chosen[0].role"),
    ("conversational", {"chosen": [{"role": "assistant"}]}, "wrong_type", "chosen[0].content"),
    ("conversational", {"chosen": [said("assistant", "4", tool_calls=[1])]}, "wrong_type", "chosen[0].tool_calls"),
    ("conversational", {"chosen": [said("assistant", "4", train=False)]}, "bad_messages", "chosen"),
    ("conversational", {"chosen": ["4"]}, "wrong_type", "chosen[0]"),
    ("conversational", {"chosen": "4"}, "wrong_type", "chosen"),
    ("conversational", {"prompt": [said("assistant", "?")]}, "bad_messages", "prompt"),
    ("conversational", {"prompt": [said("user", "?", train=True)]}, "bad_messages", "prompt[0].train"),
    ("hh", {"chosen": HH["chosen"].replace("Who?", "What?")}, "prompts_differ", "rejected"),
    ("hh", {"chosen": HH["chosen"].removesuffix(" I think it is good.")}, "empty_response", "chosen"),
    ("hh", {"rejected": HH["rejected"] + "\n\nHuman: More."}, "bad_transcript", "rejected"),
    ("hh", {"chosen": "no turns"}, "bad_transcript", "chosen"),
    ("hh", {"chosen": "\n\nAssistant: Hello."}, "bad_transcript", "chosen"),
    ("shp", {"labels": 1}, "bad_value", "labels"),
    ("shp", {"labels": 2}, "bad_value", "labels"),
    ("shp", {"score_ratio": 0.5}, "bad_value", "score_ratio"),
    ("shp", {"human_ref_B": " "}, "empty_response", "human_ref_B"),
    ("shp", {"human_ref_B": "In water."}, "same_responses", "human_ref_A"),
    ("tldr_pairs", {"chosen": "A cat."}, "bad_value", "chosen"),
    ("tldr_pairs", {"rejected": "TL;DR: "}, "empty_response", "rejected"),
    ("tldr", {"choice": 2}, "bad_value", "choice"),
    ("tldr", {"summaries": [{"text": "a"}]}, "wrong_type", "summaries"),
    ("tldr", {"summaries": [{"text": "a"}, {"text": " "}]}, "empty_response", "summaries[1].text"),
    ("tldr", {"info": {"title": "t"}}, "missing_field", "info.post"),
    ("tldr", {"info": "x"}, "wrong_type", "info"),
    ("ultrafeedback", {"completions": [{"response": "a", "overall_score": 1}]}, "no_preference", "completions"),
    ("ultrafeedback", {"completions": [{"response": "a"}] * 2}, "missing_field", "completions[0].overall_score"),
    ("ultrafeedback", {"completions": [{"text": "a", "rating": "N/A"}]}, "bad_value", "completions[0].rating"),
    ("ranking", {"scores": [1, 1, 1]}, "no_preference", "responses"),
    ("ranking", {"scores": [1, 2]}, "bad_value", "scores"),
    ("ranking", {"scores": [1, 2, None]}, "wrong_type", "scores[2]"),
    ("ranking", {"scores": None, "ranks": [1, 1, 2]}, "bad_value", "ranks"),
    ("ranking", {"responses": ["a", "a ", "b"]}, "same_responses", "responses[1]"),
    ("ranking", {"responses": ["a"]}, "bad_value", "scores"),
    ("ranking", {"responses": [str(i) for i in range(65)]}, "bad_value", "responses"),
    ("unpaired", {"label": "perhaps"}, "bad_value", "label"),
    ("unpaired", {"label": [1]}, "wrong_type", "label"),
    ("unpaired", {"completion": "\t"}, "empty_response", "completion"),
    ("prompt_completion", {"completion": None, "response": 3}, "wrong_type", "response"),
    ("messages", {"messages": CONVERSATION}, "bad_messages", "messages"),
    ("messages", {"messages": [said("assistant", "alone")]}, "bad_messages", "messages"),
    ("messages", {"messages": []}, "bad_messages", "messages"),
    ("text", {"text": "\n"}, "empty_response", "text"),
]


@pytest.mark.parametrize(("name", "fields", "fault", "field"), FAULTY)
def test_a_faulty_row_is_rejected_by_name_and_place(
    name: str, fields: dict[str, Any], fault: str, field: str, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES[name], change(name, **fields)])
    rejected = one_fault(path, name)
    assert (rejected.line, rejected.fault, rejected.field) == (2, fault, field)
    assert str(rejected).startswith(f"{path}:2: ") and "\n" not in rejected.message


def test_an_implicit_prompt_ends_where_the_assistant_turns_part(tmp_path: Path) -> None:
    start = [said("user", "a?"), said("assistant", "b"), said("user", "c?")]
    early = {
        "chosen": [said("user", "a?"), said("assistant", "x"), said("user", "y?"), said("assistant", "z")],
        "rejected": [*start, said("assistant", "d")],
    }
    late = {"chosen": [*start, said("assistant", "d")], "rejected": [*start, said("assistant", "e")]}
    short = {"chosen": start[:2], "rejected": [*start, said("assistant", "d")]}
    records, _ = read_all(write_rows(tmp_path / "rows.jsonl", [early, late, short]))
    assert records == [
        Preference((U("a?"),), (A("x"), U("y?"), A("z")), (A("b"), U("c?"), A("d"))),
        Preference((U("a?"), A("b"), U("c?")), (A("d"),), (A("e"),)),
        Preference((U("a?"),), (A("b"),), (A("b"), U("c?"), A("d"))),
    ]


def test_implicit_prompts_that_differ_are_rejected(tmp_path: Path) -> None:
    row = {
        "chosen": [said("user", "a?"), said("assistant", "b"), said("user", "c?"), said("assistant", "d")],
        "rejected": [said("user", "a?"), said("assistant", "b"), said("user", "C?"), said("assistant", "e")],
    }
    assert one_fault(write_rows(tmp_path / "rows.jsonl", [row])).fault == "prompts_differ"


def test_text_prompt_beside_whole_conversations(tmp_path: Path) -> None:
    row = {
        "prompt": "a?",
        "chosen": [said("user", "a?"), said("assistant", "b")],
        "rejected": [said("user", "a?"), said("assistant", "c")],
        "score_chosen": 8.5,
        "score_rejected": 8.0,
        "messages": [said("user", "a?"), said("assistant", "b")],
    }
    bare = {"prompt": "a?", "chosen": [said("assistant", "x")], "rejected": [said("assistant", "y")]}
    records, tally = read_all(write_rows(tmp_path / "rows.jsonl", [row, bare, row | {"prompt": "other"}]))
    assert records == [
        Preference((U("a?"),), (A("b"),), (A("c"),), margin=0.5, scores=(8.5, 8.0)),
        Preference((U("a?"),), (A("x"),), (A("y"),)),
    ]
    assert tally.rejected[0].fault == "prompts_differ"


def test_ranks_order_the_responses(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": ["c", "a", "b"], "ranks": [3, 1, 2]}
    assert read_all(write_rows(tmp_path / "rows.jsonl", [row]))[0] == [Ranking("p", ("a", "b", "c"))]


def test_a_tie_may_have_equal_responses(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "a", "tie": True}
    assert read_all(write_rows(tmp_path / "rows.jsonl", [row]))[0] == [Preference("p", "a", "a", tie=True)]


def test_unknown_fields_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(DataError, match=r"'answer', 'question'.*prompt/chosen/rejected"):
        find_format(find_source(path))


def test_sides_without_prompt_or_turns_are_not_guessed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"chosen": "The sky is blue.", "rejected": "The sky is red."}])
    with pytest.raises(DataError, match="without a prompt"):
        find_format(find_source(path))


def test_most_of_the_first_rows_decide(tmp_path: Path) -> None:
    rows = [EXAMPLES["text"], *[change("explicit", prompt=f"{i}") for i in range(3)]]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    assert find_format(find_source(path)).name == "explicit"
    assert one_fault(path).line == 1


def test_a_format_can_be_named_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES["hh"]])
    assert find_format(find_source(path), "explicit").name == "explicit"
    with pytest.raises(DataError, match="format must be one of"):
        find_format(find_source(path), "hhh")


def test_a_completion_may_be_called_label(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "POST: a\nTL;DR:", "label": " b"}])
    assert read_all(path)[0] == [Demonstration("POST: a\nTL;DR:", " b")]

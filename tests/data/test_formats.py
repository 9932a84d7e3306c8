"""Each format: what a row of it says, by hand, and which rows are not of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from preftree.data.formats import FORMATS
from preftree.data.rows.faults import RowFault
from preftree.data.sources.reader import find_format, find_source
from preftree.errors import DataError
from preftree.records import Demonstration, Label, Message, Preference, Ranking, Record
from support.datafiles import EXAMPLES, HH, example_rows, one_fault, read_all, said, write_rows

U, A = (lambda text: Message("user", text)), (lambda text: Message("assistant", text))

ICE = (U("Is ice cold?"),)
COLD, HOT = (A("Yes."),), (A("It is hot."),)
PLAIN_ICE = Preference("Is ice cold?", "Yes.", "It is hot.")

EXPECTED: dict[str, Record] = {
    "explicit": Preference("2+2=", " 4", " 5", weight=2.0, figures={"margin": (0.5,)}),
    "conversational": Preference((Message("system", "Be brief."), U("2+2?")), (A("4"),), (A("5"),)),
    # The shared beginning "I think it is" belongs to the responses, not to the prompt.
    "hh": Preference(
        "\n\nHuman: Hi?\n\nAssistant: Yes.\n\nHuman: Who?\n\nAssistant:", " I think it is good.", " I think it is bad."
    ),
    "shp": Preference(
        (U("How do I boil an egg?"),), (A("In oil."),), (A("In water."),), figures={"margin": (math.log(4),)}
    ),
    "tldr_pairs": Preference(
        "SUBREDDIT: r/AskReddit\nTITLE: A cat\nPOST: I saw a cat.\nTL;DR:", " A cat was seen.", " A dog."
    ),
    "tldr": Preference(
        "SUBREDDIT: r/AskReddit\n\nTITLE: A cat\n\nPOST: I saw a cat.\n\nTL;DR:", " A cat was seen.", " A dog."
    ),
    "ultrafeedback": Ranking(
        (U("Name a colour."),),
        ((A("Red."),), (A("Blue."),), (A("Green."),), (A("Seven."),)),
        figures={"scores": (9.0, 7.5, 7.5, 1.0)},
    ),
    "ranking": Ranking("Count:", (" 1 2 3", " 1 3 2", " x"), figures={"scores": (2.0, 1.0, -1.0)}),
    "unpaired": Label("2+2=", " 5", False),
    "prompt_completion": Demonstration("2+2=", " 4"),
    "messages": Demonstration((U("a?"), A("b"), U("c?")), (A("d"),)),
    "messages_pair": Preference((Message("system", "Be brief."), *ICE), COLD, HOT),
    "messages_label": Label(ICE, HOT, False),
    "question_pair": Preference(
        (Message("system", "Be brief."), *ICE), COLD, HOT, figures={"margin": (1.5,), "scores": (8.0, 6.5)}
    ),
    "collected": Preference("Is ice cold?", "Yes.", "It is hot.", weight=2.0, figures={"win_prob": (0.75,)}),
    "preferred_output": Preference(ICE, COLD, HOT),
    "stack_exchange": PLAIN_ICE,
    "arena": Preference(ICE, COLD, HOT),
    "arena_columns": Preference((*ICE, *COLD, U("And snow?")), (A("Yes, too."),), (A("No."),)),
    "argilla": PLAIN_ICE,
    "argilla_ranking": Ranking("Is ice cold?", ("Yes.", "Perhaps.", "It is hot.")),
    "chosen_lists": Ranking("Is ice cold?", ("Yes.", "It is hot.", "No."), figures={"scores": (1.0, 0.0, 0.0)}),
    "saferlhf": PLAIN_ICE,
    "helpsteer3": Preference(ICE, COLD, HOT, figures={"margin": (2.0,)}),
    "helpsteer2_pair": Preference("Is ice cold?", "Yes.", "It is hot.", figures={"margin": (3.0,)}),
    "label_studio_min": PLAIN_ICE,
    "label_studio": PLAIN_ICE,
    "oasst_trees": Ranking(ICE, (COLD, HOT)),
    "oasst": Ranking(ICE, (COLD, HOT)),
    "instruction": Demonstration(
        (Message("system", "Be brief."), U("Hello."), A("Hi."), U("Translate.\nEis")), (A("ice"),)
    ),
    "instruction_pair": Preference(ICE, COLD, HOT),
    "instruction_label": Label(ICE, HOT, False),
    "text": Demonstration("", "It was a dark night."),
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_detected_and_read(name: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", example_rows(name))
    assert find_format(find_source(path)).name == name
    records, tally = read_all(path)
    assert records == [EXPECTED[name]]
    assert tally.accepted == tally.rows == 1


FLAT = [name for name in FORMATS if not any(isinstance(value, list | dict) for value in EXAMPLES[name].values())]
TYPES = [(name, suffix) for name in FORMATS for suffix in (".jsonl.gz", ".json", ".parquet")]


@pytest.mark.parametrize(("name", "suffix"), [*TYPES, *((name, ".csv") for name in FLAT)])
def test_the_file_type_does_not_change_the_record(name: str, suffix: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / f"rows{suffix}", example_rows(name))
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
    ("conversational", {"chosen": [said("user", "2+3?"), said("assistant", "4")]}, "prompts_differ", "chosen"),
    ("conversational", {"chosen": [said("assistant", "4"), said("user", "ok")]}, "bad_messages", "chosen"),
    ("conversational", {"chosen": [said("robot", "4")]}, "bad_messages", "chosen[0].role"),
    ("conversational", {"chosen": [{"role": "assistant"}]}, "wrong_type", "chosen[0].content"),
    ("conversational", {"chosen": [said("assistant", "4", tool_calls=[1])]}, "bad_messages", "chosen[0].tool_calls[0]"),
    ("conversational", {"chosen": [said("assistant", "4", image="4.png")]}, "not_text", "chosen[0].image"),
    ("conversational", {"messages": [said("user", "a?"), said("assistant", "b")]}, "bad_value", "messages"),
    ("conversational", {"system": "Be long."}, "bad_messages", "system"),
    ("conversational", {"tools": "search"}, "wrong_type", "tools"),
    ("conversational", {"chat_template_kwargs": [1]}, "wrong_type", "chat_template_kwargs"),
    ("conversational", {"chosen": [said("assistant", "4", train=False)]}, "bad_messages", "chosen"),
    ("conversational", {"chosen": ["4"]}, "wrong_type", "chosen[0]"),
    ("conversational", {"chosen": 4}, "wrong_type", "chosen"),
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
    ("ranking", {"scores": None, "ranks": [1, 1, 1]}, "no_preference", "responses"),
    ("ranking", {"scores": None, "ranks": [1, "first", 2]}, "bad_value", "ranks[1]"),
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
    ("messages", {"prompt": "another?"}, "prompts_differ", "prompt"),
    ("messages", {"reasoning_content": "Hm."}, "unread_field", "reasoning_content"),
    ("messages", {"images": ["a.png"]}, "not_text", "images"),
    ("messages", {"messages": [*CONVERSATION, said("assistant", "d", weight=0.5)]}, "bad_value", "messages[3].weight"),
    (
        "messages",
        {"messages": [*CONVERSATION, said("assistant", "d", weight=0), said("user", "e")]},
        "bad_messages",
        "messages",
    ),
    ("text", {"text": "\n"}, "empty_response", "text"),
    (
        "explicit",
        {
            "chosen": "An hour ago, they said. No.",
            "rejected": "An hour ago, they said. Yes.",
            "prompt": "An hour ago, they said.",
        },
        "bad_value",
        "chosen",
    ),
    ("explicit", {"answer": "4", "label": 1}, "unread_field", "label"),
    ("messages_pair", {"rejected": None}, "missing_field", "rejected"),
    ("messages_pair", {"conversations": [{"from": "gpt", "value": "Ice."}]}, "bad_messages", "conversations"),
    ("messages_label", {"label": "perhaps"}, "bad_value", "label"),
    ("question_pair", {"chosen": None}, "missing_field", "chosen"),
    ("question_pair", {"rejected_score": 9}, "bad_value", "chosen_score"),
    ("preferred_output", {"input": "Is ice cold?"}, "wrong_type", "input"),
    ("preferred_output", {"input": {"prompt": "Is ice cold?"}}, "missing_field", "input.messages"),
    ("stack_exchange", {"response_k": " "}, "empty_response", "response_k"),
    ("arena", {"winner": "nobody"}, "bad_value", "winner"),
    (
        "arena",
        {"conversation_b": [said("user", "Is ice?"), said("assistant", "Yes.")]},
        "prompts_differ",
        "conversation_a",
    ),
    ("arena_columns", {"winner_model_b": 1}, "bad_value", "winner_model_b"),
    ("arena_columns", {"response_a": '["Yes."]'}, "bad_value", "response_a"),
    ("arena_columns", {"prompt": "[]"}, "wrong_type", "prompt"),
    ("argilla", {"responses": {}, "suggestions": {"quality": {"value": "5"}}}, "missing_field", "responses"),
    (
        "argilla",
        {"responses": {"preference": [{"value": "response_1"}, {"value": "response_2"}]}},
        "bad_value",
        "responses.preference",
    ),
    (
        "argilla",
        {"fields": EXAMPLES["argilla"]["fields"] | {"context": "In winter."}},
        "unread_field",
        "fields.context",
    ),
    ("argilla_ranking", {"prompt": 7}, "wrong_type", "prompt"),
    ("chosen_lists", {"rejected": ["It is hot.", " "]}, "empty_response", "rejected[1]"),
    ("saferlhf", {"better_response_id": 2}, "bad_value", "better_response_id"),
    ("helpsteer3", {"overall_preference": "strong"}, "bad_value", "overall_preference"),
    ("helpsteer2_pair", {"preference_strength": None}, "missing_field", "preference_strength"),
    ("label_studio_min", {"comparison": "left"}, "missing_field", "comparison.selected"),
    ("label_studio", {"annotations": []}, "missing_field", "annotations.*.result.0.value.selected"),
    (
        "ultrafeedback",
        {
            "completions": [
                {"response": "a", "overall_score": 10, "fine-grained_score": 1.0},
                {"response": "b", "overall_score": 7},
            ]
        },
        "bad_value",
        "completions[0].overall_score",
    ),
    ("instruction", {"history": [["Hello."]]}, "wrong_type", "history[0]"),
    ("instruction", {"history": "Hello."}, "wrong_type", "history"),
    ("instruction", {"input": 3}, "wrong_type", "input"),
    ("instruction_pair", {"rejected": "Yes. "}, "same_responses", "rejected"),
    ("instruction_label", {"kto_tag": "?"}, "bad_value", "kto_tag"),
]


@pytest.mark.parametrize(("name", "fields", "fault", "field"), FAULTY)
def test_a_faulty_row_is_rejected_by_name_and_place(
    name: str, fields: dict[str, Any], fault: str, field: str, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES[name], change(name, **fields)])
    rejected = one_fault(path, None if fault == "unread_field" else name)
    assert (rejected.line, rejected.fault, rejected.field) == (2, fault, field)
    assert str(rejected).startswith(f"{path}:2: ") and "\n" not in rejected.message


def test_messages_of_a_tree_that_no_first_one_leads_to_are_faults(tmp_path: Path) -> None:
    def message(name: str, parent: str | None, role: str, rank: int | None = None) -> dict[str, Any]:
        return {"message_id": name, "parent_id": parent, "text": name, "role": role, "rank": rank, "message_tree_id": 1}

    asked = [message("q", None, "prompter"), message("a", "q", "assistant", 0), message("b", "q", "assistant", 1)]
    lost = [message("c", "d", "prompter"), message("d", "c", "assistant"), message("e", "gone", "prompter")]
    records, tally = read_all(write_rows(tmp_path / "rows.jsonl", [*asked, *lost]))
    assert records == [Ranking((U("q"),), ((A("a"),), (A("b"),)))]
    assert [(row.line, row.field) for row in tally.rejected] == [(4, "parent_id"), (5, "parent_id"), (6, "parent_id")]


def test_a_long_dialogue_of_messages_is_read(tmp_path: Path) -> None:
    roles = ("prompter", "assistant")
    chain = [
        {"message_id": f"{i}", "parent_id": f"{i - 1}" if i else None, "text": f"t{i}", "role": roles[i % 2]}
        for i in range(1501)
    ]
    ends = [
        {"message_id": n, "parent_id": "1500", "text": n, "role": "assistant", "rank": r} for r, n in enumerate("xy")
    ]
    records, _ = read_all(write_rows(tmp_path / "rows.jsonl", [*chain, *ends]))
    assert [len(record.prompt) for record in records] == [1501]


def test_a_message_whose_name_is_a_list_is_of_no_format(tmp_path: Path) -> None:
    odd = {"message_id": [], "parent_id": None, "text": "t", "role": "prompter"}
    assert one_fault(write_rows(tmp_path / "rows.jsonl", [EXAMPLES["explicit"], odd]), None).line == 2


def test_a_named_format_counts_what_it_does_not_read(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES["text"] | {"label": 1}])
    records, tally = read_all(path, "text")
    assert records == [EXPECTED["text"]] and dict(tally.unread) == {"label": 1}


def test_fields_of_turns_that_are_not_read_are_counted(tmp_path: Path) -> None:
    messages = [row | {"lang": "en", "emojis": {"+1": 2}, "labels": None} for row in example_rows("oasst")]
    _, tally = read_all(write_rows(tmp_path / "messages.jsonl", messages))
    assert dict(tally.unread) == {"lang": 3, "emojis": 3}
    (tree,) = example_rows("oasst_trees")
    replies = [reply | {"lang": "en"} for reply in tree["prompt"]["replies"]]
    tree = tree | {"tree_state": "ready", "prompt": tree["prompt"] | {"replies": replies}}
    _, tally = read_all(write_rows(tmp_path / "trees.jsonl", [tree]))
    assert dict(tally.unread) == {"tree_state": 1, "message_tree_id": 1, "prompt.lang": 1}


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
        Preference((U("a?"),), (A("b"),), (A("c"),), figures={"margin": (0.5,), "scores": (8.5, 8.0)}),
        Preference((U("a?"),), (A("x"),), (A("y"),)),
    ]
    assert tally.rejected[0].fault == "prompts_differ"


def test_ranks_order_the_responses(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": ["c", "a", "b"], "ranks": [3, 1, 2]}
    equal = {"prompt": "q", "responses": ["c", "a", "b"], "ranks": [1, 0, 1]}
    assert read_all(write_rows(tmp_path / "rows.jsonl", [row, equal]))[0] == [
        Ranking("p", ("a", "b", "c")),
        Ranking("q", ("a", "c", "b"), figures={"scores": (0.0, -1.0, -1.0)}),
    ]


def test_a_tie_may_have_equal_responses(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "a", "tie": True}
    assert read_all(write_rows(tmp_path / "rows.jsonl", [row]))[0] == [Preference("p", "a", "a", tie=True)]


def test_unknown_fields_are_answered_with_a_mapping(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(
        DataError, match=r"'question', 'answer' .* --columns prompt=question,response=answer reads them"
    ):
        find_format(find_source(path))


def test_sides_without_prompt_or_turns_are_not_guessed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"chosen": "The sky is blue.", "rejected": "The sky is red."}])
    with pytest.raises(DataError, match="without their prompt"):
        find_format(find_source(path))


def test_most_of_the_first_rows_decide(tmp_path: Path) -> None:
    rows = [EXAMPLES["instruction_pair"], *[change("explicit", prompt=f"{i}") for i in range(3)]]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    assert find_format(find_source(path)).name == "explicit"
    rejected = one_fault(path)
    assert (rejected.line, rejected.fault, rejected.field) == (1, "other_format", "row")


def test_a_row_of_another_kind_stops_the_file(tmp_path: Path) -> None:
    """Behind the rows that decide, a disliked response is not imitated, whatever the format of its file."""
    rows = [change("messages", messages=[said("user", f"{i}?"), said("assistant", "b")]) for i in range(120)]
    path = write_rows(tmp_path / "rows.jsonl", [*rows, EXAMPLES["messages_label"]])
    sentence = r"rows.jsonl:121: the row holds conversations, liked or not .*'messages', 'label'; take such rows out"
    with pytest.raises(DataError, match=sentence):
        read_all(path)


def test_columns_that_are_empty_in_all_rows_mean_nothing(tmp_path: Path) -> None:
    """A table made for several formats; a side that only some rows lack makes those rows faulty."""
    empty = {"rejected_response": None, "label": None, "kto_tag": ""}
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES["messages"] | empty])
    assert find_format(find_source(path)).name == "messages"
    assert read_all(path)[0] == [EXPECTED["messages"]]
    pair = {"messages": EXAMPLES["messages"]["messages"], "rejected_response": "e"}
    path = write_rows(tmp_path / "rows.jsonl", [pair, pair | {"rejected_response": None}])
    rejected = one_fault(path)
    assert (rejected.line, rejected.fault, rejected.field) == (2, "missing_field", "rejected_response")


@pytest.mark.parametrize("name", FORMATS)
def test_formats_exclude_each_other(name: str) -> None:
    """A row is of one format; with a field lost, of that format, or of none, or of another one of the same kind."""
    assert [form.name for form in FORMATS.values() if form.detect(EXAMPLES[name])] == [name]
    for field in EXAMPLES[name]:
        for lost in (None, ""):
            found = [form for form in FORMATS.values() if form.detect(EXAMPLES[name] | {field: lost})]
            assert len(found) <= 1, (field, lost)
            assert all(form.kind == FORMATS[name].kind for form in found), (field, lost)


class Watched(dict[str, Any]):
    """A row that remembers which of its fields were looked at."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.looked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.looked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.looked.add(name)
        return super().get(name, default)


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].group is None])
def test_what_a_format_reads_is_what_it_names(name: str) -> None:
    """Fields that are looked at are among `fields`, and each field beside them is counted or refused."""
    form = FORMATS[name]
    row = Watched(EXAMPLES[name])
    form.read(row)
    named = form.fields | (form.columns_read(EXAMPLES[name]) if form.columns_read else set())
    assert row.looked - named == set()
    empty = (None, "", [], {})
    beside = [field for field, value in EXAMPLES[name].items() if field not in named and value not in empty]
    assert form.unread(EXAMPLES[name]) == beside
    assert form.unread(EXAMPLES[name] | {"origin": "x", "empty": None, "blank": ""})[-1] == "origin"
    for field in ("system", "tools", "chat_template_kwargs", "thinking", "winner", "kto_tag", "rejected_messages"):
        if field not in named:
            with pytest.raises(RowFault) as caught:
                form.unread(EXAMPLES[name] | {field: "x"})
            assert (caught.value.fault, caught.value.field) == ("unread_field", field)


def test_unread_fields_are_counted(tmp_path: Path) -> None:
    rows = [change("explicit", prompt=f"{i}", source="a", meta={} if i else {"b": 1}) for i in range(3)]
    assert read_all(write_rows(tmp_path / "rows.jsonl", rows))[1].unread == {"source": 3, "meta": 1}


def test_a_format_can_be_named_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES["hh"]])
    assert find_format(find_source(path), "explicit").name == "explicit"
    with pytest.raises(DataError, match="format must be one of"):
        find_format(find_source(path), "hhh")


def test_a_completion_may_be_called_label(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "POST: a\nTL;DR:", "label": " b"}])
    assert read_all(path)[0] == [Demonstration("POST: a\nTL;DR:", " b")]


def test_half_of_a_figure_is_not_read(tmp_path: Path) -> None:
    """A margin needs both scores, a bound both costs; with one of them the row is a pair, and the other is named."""
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    whole = row | {"score_chosen": 2, "score_rejected": 1}
    path = write_rows(tmp_path / "rows.jsonl", [row | {"prompt": "q", "cost_chosen": 1}, whole])
    records, tally = read_all(path)
    assert [record.figures for record in records] == [{}, {"scores": (2.0, 1.0), "margin": (1.0,)}]
    assert dict(tally.unread) == {"cost_chosen": 1}

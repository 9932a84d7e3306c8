"""Mapped columns: any names, nested or listed fields, words of a verdict; and the mapping that a refusal prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from preftree.data.formats import FORMATS
from preftree.data.rows.columns import look_up, parse_columns
from preftree.data.rows.faults import RowFault, Tally
from preftree.data.rows.parts import TARGETS
from preftree.data.sources.reader import find_format, find_source, read_records
from preftree.errors import DataError
from preftree.records import Demonstration, Label, Message, Preference, Ranking, Record
from support.datafiles import read_all, said, write_rows

TEXTS = Preference("Is ice cold?", "Yes.", "It is hot.")
TIE = Preference("Is ice cold?", "Yes.", "It is hot.", tie=True)
ANSWERS: dict[str, Any] = {"q": "Is ice cold?", "x": "Yes.", "y": "It is hot."}
VERDICT = "prompt=q,a=x,b=y,"


def read(columns: str, row: dict[str, Any]) -> Record:
    return parse_columns(columns).read(row)


READ = [
    ("prompt=q,chosen=x,rejected=y", ANSWERS, TEXTS),
    (
        "prompt=data.q,chosen=data.x.0,rejected=data.x.-1",
        {"data": {"q": "Is ice cold?", "x": ["Yes.", "It is hot."]}},
        TEXTS,
    ),
    ("prompt=a.b,chosen=x,rejected=y", ANSWERS | {"a.b": "Is ice cold?", "a": {"b": "Another?"}}, TEXTS),
    (VERDICT + "winner=w", ANSWERS | {"w": "model_a"}, TEXTS),
    (VERDICT + "winner=w", ANSWERS | {"w": "Tie (bothbad)"}, TIE),
    (VERDICT + "winner=w:1|2|both|none", ANSWERS | {"w": 1}, TEXTS),
    (VERDICT + "winner=w:1|2|both|none", ANSWERS | {"w": "none"}, TIE),
    (VERDICT + "winner=w:true|false", ANSWERS | {"w": True}, TEXTS),
    (VERDICT + "winner=w.0.value.selected:left|right", ANSWERS | {"w": [{"value": {"selected": "left"}}]}, TEXTS),
    (VERDICT + "winner=w:<0|>0|0", ANSWERS | {"w": -0.5}, TEXTS),
    (VERDICT + "winner=w:<0|>0|0", ANSWERS | {"w": 0}, TIE),
    (
        VERDICT + "winner=w:<0|>0|0,strength=w",
        ANSWERS | {"w": -3},
        Preference("Is ice cold?", "Yes.", "It is hot.", figures={"margin": (3.0,)}),
    ),
    (VERDICT + "a_wins=s,b_wins=t", ANSWERS | {"s": 1, "t": 0}, TEXTS),
    (VERDICT + "a_wins=s,b_wins=t", ANSWERS | {"s": "false", "t": "false"}, TIE),
    (
        VERDICT + "score_a=s,score_b=t",
        ANSWERS | {"s": 2, "t": "0.5"},
        Preference("Is ice cold?", "Yes.", "It is hot.", figures={"margin": (1.5,), "scores": (2.0, 0.5)}),
    ),
    (VERDICT + "score_a=s,score_b=t", ANSWERS | {"s": 2, "t": 2}, TIE),
    ("prompt=q,response=x,label=l:good|bad", ANSWERS | {"l": "bad"}, Label("Is ice cold?", "Yes.", False)),
    ("prompt=q,response=x,label=l", ANSWERS | {"l": 1}, Label("Is ice cold?", "Yes.", True)),
    ("prompt=q,response=x,weight=w", ANSWERS | {"w": 2}, Demonstration("Is ice cold?", "Yes.", 2.0)),
    (
        "prompt=q,responses=list.*.text,scores=list.*.votes",
        {"q": "q?", "list": [{"text": "a", "votes": 1}, {"text": "b", "votes": 2}]},
        Ranking("q?", ("b", "a"), figures={"scores": (2.0, 1.0)}),
    ),
    ("prompt=q,responses=x|y,ranks=s|t:0", ANSWERS | {"s": 1, "t": 0}, Ranking("Is ice cold?", ("It is hot.", "Yes."))),
    (
        "messages=talk,system=s",
        {"talk": [said("user", "a?"), said("assistant", "b")], "s": "Be brief."},
        Demonstration((Message("system", "Be brief."), Message("user", "a?")), (Message("assistant", "b"),)),
    ),
]


@pytest.mark.parametrize(("columns", "row", "record"), READ)
def test_a_mapping_says_what_each_field_is(columns: str, row: dict[str, Any], record: Record) -> None:
    assert read(columns, row) == record
    assert parse_columns(str(parse_columns(columns))).read(row) == record


FAULTY = [
    ("prompt=q,chosen=x,rejected=y", ANSWERS | {"y": None}, "missing_field", "y"),
    ("prompt=data.q,chosen=x,rejected=y", ANSWERS | {"data": []}, "missing_field", "data.q"),
    ("prompt=q,chosen=x,rejected=y", ANSWERS | {"x": " "}, "empty_response", "x"),
    ("prompt=q,chosen=x,rejected=y", ANSWERS | {"q": 3}, "wrong_type", "q"),
    ("prompt=q,chosen=x,rejected=y,weight=w", ANSWERS | {"w": 0}, "bad_value", "w"),
    ("prompt=q,chosen=x,rejected=y,margin=m", ANSWERS | {"m": "far"}, "bad_value", "m"),
    (VERDICT + "winner=w", ANSWERS | {"w": "nobody"}, "bad_value", "w"),
    (VERDICT + "winner=w", ANSWERS, "missing_field", "w"),
    (VERDICT + "winner=w:1|2", ANSWERS | {"w": 3}, "bad_value", "w"),
    (VERDICT + "winner=w:<0|>0|0", ANSWERS | {"w": "nan"}, "bad_value", "w"),
    (VERDICT + "a_wins=s,b_wins=t", ANSWERS | {"s": 1, "t": 1}, "bad_value", "t"),
    (VERDICT + "score_a=s,score_b=t", ANSWERS | {"s": 1}, "missing_field", "t"),
    ("prompt=q,response=x,label=l", ANSWERS, "missing_field", "l"),
    ("prompt=q,response=x,label=l:good|bad", ANSWERS | {"l": "fair"}, "bad_value", "l"),
    ("prompt=q,responses=x|y,scores=s|t", ANSWERS | {"s": 1, "t": None}, "wrong_type", "s|t[1]"),
    ("prompt=q,responses=x|z,scores=s|t", ANSWERS | {"s": 1, "t": 2}, "wrong_type", "z"),
    ("prompt=q,response=x,label=l", ANSWERS | {"l": "Excellent"}, "bad_value", "l"),
    ("prompt=q+i,response=x", ANSWERS | {"i": 3}, "wrong_type", "i"),
    ("prompt=p+i,response=x", ANSWERS, "missing_field", "p+i"),
    ("prompt=q,responses=r,ranks=s", {"q": "q?", "r": ["a", "b"]}, "missing_field", "s"),
    ("prompt=q,responses=r,ranks=s:0", {"q": "q?", "r": ["a", "b"], "s": [1, 2]}, "bad_value", "s"),
]


@pytest.mark.parametrize(("columns", "row", "fault", "field"), FAULTY)
def test_a_fault_names_the_field_of_the_row(columns: str, row: dict[str, Any], fault: str, field: str) -> None:
    with pytest.raises(RowFault) as caught:
        read(columns, row)
    assert (caught.value.fault, caught.value.field) == (fault, field)
    assert f"'{field}'" in caught.value.message


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ("prompt", r"'prompt' is no TARGET=FIELD"),
        ("prompt=", "prompt= names no field"),
        ("question=q,response=x", "'question' is nothing that a column can be; choose from prompt, "),
        ("prompt=q,prompt=p,response=x", "prompt is named twice"),
        ("prompt=q,chosen=x", "chosen needs rejected"),
        ("prompt=q,a=x,b=y", "two answers and a verdict belong together"),
        ("prompt=q,a=x,b=y,a_wins=w", "two answers and a verdict belong together"),
        ("prompt=q,response=x,winner=w:A|B", "a verdict on one response is its label; give label=FIELD:GOOD|BAD"),
        ("prompt=q,winner=w", "two answers and a verdict belong together"),
        ("label=l", "no text is named"),
        ("prompt=q,a=x,b=y,winner=w:1", "wanted 2 to 4 words after ':', got 1"),
    ],
)
def test_a_mapping_that_makes_no_record_is_refused(columns: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        parse_columns(columns)


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (["left", "left"], "left"),
        ([None, "right"], "right"),
        (["left", "right"], None),
        ([None], None),
        ([], None),
    ],
)
def test_annotators_agree_or_the_row_is_a_fault(verdicts: list[str | None], says: str | None) -> None:
    """An annotation that was cancelled has no result; where nobody decides, the verdict is missing."""
    annotations = [{"result": [{"value": {"selected": word}}] if word else []} for word in verdicts]
    row = {"data": {"prompt": "p", "answer1": "one", "answer2": "two"}, "annotations": annotations}
    if says is not None:
        pair = FORMATS["label_studio"].read(row)
        assert isinstance(pair, Preference) and pair.chosen == {"left": "one", "right": "two"}[says]
        return
    with pytest.raises(RowFault) as caught:
        FORMATS["label_studio"].read(row)
    assert caught.value.field == "annotations.*.result.0.value.selected"
    assert ("the annotators differ" in caught.value.message) == (len(verdicts) == 2)


def test_a_map_is_the_same_as_a_line() -> None:
    given = {"prompt": "q", "a": "x", "b": "y", "winner": "w:1|2"}
    line = parse_columns("prompt=q,a=x,b=y,winner=w:1|2")
    assert parse_columns(given) == line and str(line) == "prompt=q,a=x,b=y,winner=w:1|2"
    assert line.kind == "pair" and line.fields == {"q", "x", "y", "w"}
    assert set(given) <= set(TARGETS)


def test_a_path_that_leads_nowhere_is_none() -> None:
    row = {"a": [{"b": 1}], "c": "text"}
    assert [look_up(row, path) for path in ("a.1.b", "a.x", "c.d", "a.-2", "z")] == [None] * 5
    assert [look_up(row, path) for path in ("a.0.b", "a.-1.b", "a.*.b", "a.*.z")] == [1, 1, [1], [None]]


def read_file(path: str, columns: str) -> tuple[list[Record], Tally]:
    tally, source = Tally(), find_source(path)
    form = find_format(source, columns=parse_columns(columns))
    return [record for _, record in read_records(source, form, tally)], tally


PUBLIC = [
    (
        "webgpt",
        "prompt=question.full_text,a=answer_0,b=answer_1,score_a=score_0,score_b=score_1",
        {
            "question": {"full_text": "Is ice cold?", "id": 1},
            "answer_0": "It is hot.",
            "answer_1": "Yes.",
            "score_0": -1.0,
            "score_1": 1.0,
        },
        Preference("Is ice cold?", "Yes.", "It is hot.", figures={"margin": (2.0,), "scores": (1.0, -1.0)}),
    ),
    (
        "AlpacaFarm",
        "prompt=instruction,a=output_1,b=output_2,winner=preference:1|2",
        {"instruction": "Is ice cold?", "output_1": "It is hot.", "output_2": "Yes.", "preference": 2},
        TEXTS,
    ),
    (
        "votes",
        "prompt=post.title,responses=comments.*.body,scores=comments.*.ups",
        {"post": {"title": "Is ice cold?"}, "comments": [{"body": "Hot.", "ups": 1}, {"body": "Yes.", "ups": 9}]},
        Ranking("Is ice cold?", ("Yes.", "Hot."), figures={"scores": (9.0, 1.0)}),
    ),
]


@pytest.mark.parametrize(("columns", "row", "record"), [case[1:] for case in PUBLIC], ids=[case[0] for case in PUBLIC])
def test_one_line_reads_a_layout_that_no_format_knows(
    columns: str, row: dict[str, Any], record: Record, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [row | {"source": "s"}])
    with pytest.raises(DataError, match="are of no known format"):
        find_format(find_source(path))
    records, tally = read_file(path, columns)
    assert records == [record] and tally.unread == {"source": 1}


GUESSED = [
    ({"question": "Is ice cold?", "better": "Yes.", "worse": "It is hot."}, TEXTS),
    ({"query": "Is ice cold?", "answer_a": "Yes.", "answer_b": "It is hot.", "verdict": "A"}, TEXTS),
    ({"prompt": "Is ice cold?", "response1": "Yes.", "response2": "It is hot.", "winner": "tie"}, TIE),
    ({"prompt": "Is ice cold?", "completion_1": "It is hot.", "completion_2": "Yes.", "preference": 2}, None),
    ({"prompt": "Is ice cold?", "left": "x", "output_a": "Yes.", "output_b": "It is hot.", "label": -1}, TEXTS),
    ({"sample": {"question": "Is ice cold?", "good": "Yes.", "bad": "It is hot."}}, TEXTS),
    ({"problem": "Is ice cold?", "solution": "Yes."}, Demonstration("Is ice cold?", "Yes.")),
    ({"post": "Is ice cold?", "reply": "Yes.", "upvoted": True}, Label("Is ice cold?", "Yes.", True)),
    ({"question": "Is ice cold?", "answer": "It is hot.", "rating": "Bad"}, None),  # no demonstration
    (
        {
            "instruction": "Is ice",
            "input": "cold?",
            "output_1": "Yes.",
            "output_2": "It is hot.",
            "preference": "first",
        },
        Preference("Is ice\ncold?", "Yes.", "It is hot."),
    ),
]


@pytest.mark.parametrize(("row", "record"), GUESSED)
def test_the_mapping_that_a_refusal_prints_reads_the_file(
    row: dict[str, Any], record: Record | None, tmp_path: Path
) -> None:
    """Words that say nothing of their order are no guess: then no mapping is printed."""
    path = write_rows(tmp_path / "rows.jsonl", [row])
    with pytest.raises(DataError, match="are of no known format") as caught:
        find_format(find_source(path))
    printed = re.search(r"--columns (.*) reads them", str(caught.value))
    if record is None:
        assert printed is None and "say what each is with --columns" in str(caught.value)
    else:
        assert printed is not None and read_file(path, printed[1])[0] == [record]


def test_a_name_and_a_mapping_contradict_each_other(tmp_path: Path) -> None:
    source = find_source(write_rows(tmp_path / "rows.jsonl", [ANSWERS]))
    with pytest.raises(DataError, match="give a format or columns, not both"):
        find_format(source, "explicit", parse_columns("prompt=q,response=x"))


def test_texts_under_each_other(tmp_path: Path) -> None:
    columns = "prompt=instruction+input,response=y"
    rows = [{"instruction": "Add.", "input": given, "y": "3"} for given in ("1, 2", "", None)]
    prompts = [record.prompt for record in map(parse_columns(columns).read, rows)]
    assert prompts == ["Add.\n1, 2", "Add.", "Add."]
    records, tally = read_file(write_rows(tmp_path / "rows.jsonl", rows), columns)
    assert len(records) == 2 and tally.repeated == 1 and not tally.unread
    assert parse_columns("prompt=q+i,response=x").read({"q+i": "whole", "x": "y"}).prompt == "whole"


def test_a_field_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    """Else a misspelt system column would be left out in silence."""
    path = write_rows(tmp_path / "rows.jsonl", [ANSWERS | {"s": None, "list": [{"a": 1}]}])
    find_format(find_source(path), columns=parse_columns("prompt=q,response=x,system=s"))  # empty, and no mistake
    with pytest.raises(DataError, match="system=sy: none of the first 1 rows has a field 'sy'"):
        find_format(find_source(path), columns=parse_columns("prompt=q,response=x,system=sy"))


def test_a_verdict_beside_messages_is_not_dropped(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": turns, "verdict": "thumbs_down"}])
    _, tally = read_all(path)
    assert [(row.field, row.fault) for row in tally.rejected] == [("verdict", "unread_field")]
    records, _ = read_file(path, "messages=messages,label=verdict:thumbs_up|thumbs_down")
    assert isinstance(records[0], Label) and not records[0].desirable

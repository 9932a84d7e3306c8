"""Files as they come: damaged, hostile, huge. A faulty row is a fault of that row, a damaged file one sentence."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from preftree.data.prompts import prompt_key
from preftree.data.rows.faults import RowFault
from preftree.data.rows.raw_row import MAX_ROW_BYTES
from preftree.data.sources import hub
from preftree.data.sources.hub import HubData, find_on_hub, looks_like_hub_id, read_hub
from preftree.data.sources.reader import find_source, read_rows
from preftree.data.tools.inspect import inspect_file
from preftree.errors import DataError
from preftree.records import Conversation, Message
from support.datafiles import read_all, write_rows

ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}
GOOD = json.dumps(ROW).encode()


def faults(path: Path) -> list[tuple[int, str]]:
    rows = read_rows(find_source(str(path)))
    return [(raw.where.line, raw.row.fault) for raw in rows if isinstance(raw.row, RowFault)]


BAD_LINES = {
    b'{"prompt": "p"': "bad_json",
    b"not json": "bad_json",
    b"[" * 100_000: "bad_json",
    b'{"a":' * 100_000: "bad_json",
    b"9" * 5000: "bad_json",
    b'{"prompt": "\xff"}': "bad_utf8",
    b'{"prompt": "\xc3\x28"}': "bad_utf8",
    b"\xff\xfe{\x00}\x00": "bad_utf8",
    b"[1, 2]": "wrong_type",
    b"null": "wrong_type",
    b'"text"': "wrong_type",
    b"NaN": "wrong_type",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:12].hex())
def test_a_bad_line_is_one_fault_and_the_next_is_read(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD)
    assert faults(path) == [(3, BAD_LINES[line])]
    assert [raw.where.line for raw in read_rows(find_source(str(path)))] == [1, 3, 4]


def test_a_huge_line_is_skipped_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with open(path, "wb") as file:
        file.write(GOOD + b"\n" + b'{"prompt": "')
        for _ in range(50):
            file.write(b"x" * 2**20)
        file.write(b'"}\n' + GOOD + b"\n")
    tracemalloc.start()
    found = faults(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [(2, "line_too_long")]
    assert peak < 45 * 2**20  # the longest allowed line twice over, not the 50 MiB that stand there
    assert [raw.where.line for raw in read_rows(find_source(str(path)))] == [1, 2, 3]


def test_a_row_of_the_longest_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    room = MAX_ROW_BYTES - len(GOOD)
    line = json.dumps(ROW | {"prompt": "p" * (room + 1)}).encode()
    assert len(line) == MAX_ROW_BYTES
    path.write_bytes(line + b"\n" + line + b" \n" + line)
    assert faults(path) == [(2, "line_too_long")]


def test_the_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", GOOD),
        ("a.json", b"[" + GOOD + b"]"),
        ("a.csv", b"prompt,chosen,rejected\np,a,b\n"),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
        assert len(read_all(str(tmp_path / name))[0]) == 1


@pytest.mark.parametrize("rows", [1, 7, 3000])
def test_a_json_array_is_read_item_by_item(rows: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    values = [ROW | {"prompt": "é" * (i % 97), "n": i} for i in range(rows)]
    for indent in (None, 2):
        path.write_text(json.dumps(values, indent=indent, ensure_ascii=False))
        read_back = list(read_rows(find_source(str(path))))
        assert [raw.row for raw in read_back] == values
        assert [raw.where.line for raw in read_back] == list(range(1, rows + 1))


def test_a_json_file_may_hold_lines_and_an_empty_array_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(GOOD + b"\n" + GOOD)
    assert [raw.where.line for raw in read_rows(find_source(str(path)))] == [1, 2]
    path.write_text(" [ ] \n")
    with pytest.raises(DataError, match="holds no rows"):
        inspect_file(str(path))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[" + GOOD, "rows.json:1: not JSON .the file ends where ',' or ']' was wanted.; fix the file"),
        (b"[" + GOOD + b",\n", "rows.json:2: not JSON .row 2: the file ends here."),
        (b"[" + GOOD + b",\n {]", "rows.json:2: not JSON .row 2: Expecting property name .* at ']'"),
        (b"[" + GOOD + b"\n" + GOOD + b"]", "rows.json:2: not JSON .wanted ',' or '\\]', got '{\"prompt\": "),
        (b"[" + GOOD + b"] " + GOOD, "rows.json:1: not JSON .text after the end of its array"),
        (b"[" + GOOD + b"," + b"[" * 100_000, "row 2: it nests too deep"),
    ],
)
def test_a_broken_json_array_is_one_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        list(read_rows(find_source(str(path))))


def test_bad_bytes_in_a_json_array_are_a_fault_of_their_field(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + GOOD + b', {"prompt": "p", "chosen": "\xff", "rejected": "b"}, 3]')
    _, tally = read_all(str(path))
    assert [(row.line, row.fault, row.field) for row in tally.rejected] == [
        (2, "bad_utf8", "chosen"),
        (3, "wrong_type", "row"),
    ]


def test_csv_places_count_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b'prompt,chosen,rejected\r\n"two\r\nlines",a,b\r\np,,b\r\n\r\np,a\r\np,\xff,b\r\np,"a"x,b\r\nq,a,b\r\n'
    )
    records, tally = read_all(str(path))
    assert [record.prompt for record in records] == ["two\r\nlines", "q"]
    assert [(row.line, row.fault, row.field) for row in tally.rejected] == [
        (4, "empty_response", "chosen"),
        (6, "bad_csv", "row"),
        (7, "bad_utf8", "chosen"),
        (8, "bad_csv", "row"),
    ]


def test_csv_cells_may_be_long_and_numbers_are_text(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", [ROW | {"chosen": "y" * 200_000, "weight": "2.5", "margin": ""}])
    (record,), _ = read_all(path)
    assert len(record.chosen) == 200_000 and record.weight == 2.5 and not record.figures  # type: ignore[union-attr]


def test_a_csv_header_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,chosen,chosen\np,a,b\n")
    with pytest.raises(DataError, match="names column 'chosen' twice"):
        list(read_rows(find_source(str(path))))


def test_bad_bytes_in_parquet_are_a_fault_of_their_row(tmp_path: Path) -> None:
    raw = pa.array([b"ok", b"\xff", b"fine"], pa.binary())
    strings = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    table = pa.table({"prompt": ["p", "q", "r"], "chosen": strings, "rejected": ["x", "y", "z"]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    records, tally = read_all(str(tmp_path / "rows.parquet"))
    assert len(records) == 2
    assert [(row.line, row.fault) for row in tally.rejected] == [(2, "bad_utf8")]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.parquet"])
@pytest.mark.parametrize("damage", ["half", "flipped", "text"])
def test_a_damaged_container_is_one_sentence(name: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_rows(path, [ROW | {"prompt": str(i)} for i in range(2000)])
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    new = {"half": content[: len(content) // 2], "flipped": content, "text": b"plain text"}[damage]
    path.write_bytes(bytes(new))
    with pytest.raises(DataError, match=name):
        inspect_file(str(path))


def test_a_folder_is_read_by_name_and_other_files_are_left_alone(tmp_path: Path) -> None:
    write_rows(tmp_path / "b.jsonl", [ROW | {"prompt": "2"}, ROW | {"prompt": ""}])
    write_rows(tmp_path / "a.csv", [ROW | {"prompt": "1"}])
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "inner").mkdir()
    write_rows(tmp_path / "inner" / "c.jsonl", [ROW])
    records, _ = read_all(str(tmp_path))
    assert [record.prompt for record in records] == ["1", "2", ""]


def test_what_is_not_there_or_not_data_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for path, sentence in (
        ("missing.jsonl", "does not exist"),
        ("a/missing.jsonl", "does not exist"),
        (str(tmp_path / "notes.txt"), "must end in one of"),
        (str(tmp_path / "empty"), "holds no data file"),
    ):
        with pytest.raises(DataError, match=sentence):
            find_source(path)
    (tmp_path / "none.jsonl").write_text("\n \n")
    with pytest.raises(DataError, match="no rows"):
        inspect_file(str(tmp_path / "none.jsonl"))
    (tmp_path / "bad.jsonl").write_text("x\ny\n")
    with pytest.raises(DataError, match="none of its first 2 rows can be read; the first: the line is not JSON"):
        inspect_file(str(tmp_path / "bad.jsonl"))


def test_a_hub_id_is_told_from_a_path() -> None:
    assert looks_like_hub_id("Anthropic/hh-rlhf") and looks_like_hub_id("a/b@v1.0:test")
    assert looks_like_hub_id("a/b#c@refs/convert/parquet:test") and not looks_like_hub_id("a/b#/c")
    assert not looks_like_hub_id("/a/b") and not looks_like_hub_id("a/b/c") and not looks_like_hub_id("../b")
    with pytest.raises(DataError, match="neither a file here nor a data set that the hub gives"):
        find_on_hub("nobody/nothing")  # tests run offline


def test_a_hub_id_names_folder_revision_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> SimpleNamespace:
            asked.append((name, revision))
            return SimpleNamespace(sha="c0ffee")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert find_on_hub("a/b#c@refs/convert/parquet:valid1") == HubData("a/b", "valid1", "c0ffee", "c")
    assert find_on_hub("a/b") == HubData("a/b", "train", "c0ffee")
    assert asked == [("a/b", "refs/convert/parquet"), ("a/b", None)]


def test_hub_rows_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder stands in for the hub: `datasets` reads both by the same call."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "owner"
    folder.mkdir()
    write_rows(folder / "train.jsonl", [ROW | {"prompt": str(i)} for i in range(5)])
    assert [row["prompt"] for row in read_hub(HubData(str(folder), "train", None))] == ["0", "1", "2", "3", "4"]
    with pytest.raises(DataError, match="cannot be read"):
        list(read_hub(HubData(str(folder), "missing", None)))

    for name in ("one", "two"):
        (tmp_path / "parts" / name).mkdir(parents=True)
        write_rows(tmp_path / "parts" / name / "train.jsonl", [ROW | {"prompt": name}])
    parts = HubData(str(tmp_path / "parts"), "train", None, "two")
    assert [row["prompt"] for row in read_hub(parts)] == ["two"]

    def resolved(path: str) -> HubData:
        return HubData(str(folder), "train", None)

    monkeypatch.setattr("preftree.data.sources.reader.find_on_hub", resolved)
    found = inspect_file("owner/name")
    assert (found.format.name, found.tally.rows, found.tally.accepted) == ("explicit", 5, 5)
    assert found.first is not None and str(found.first[0]) == "owner/name:1"
    assert hub.looks_like_hub_id("owner/name")


def test_reading_is_lazy(tmp_path: Path) -> None:
    """Rows are held one at a time: 24 MB of file, not a tenth of it in memory."""
    path = tmp_path / "rows.jsonl"
    with open(path, "w") as file:
        for i in range(800):
            file.write(json.dumps({"prompt": f"{i}", "chosen": "a" * 15_000, "rejected": "b" * 15_000}) + "\n")

    def count(rows: Iterator[Any]) -> int:
        return sum(1 for _ in rows)

    tracemalloc.start()
    assert count(islice(read_rows(find_source(str(path))), 800)) == 800
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.4e6
    assert np.isclose(path.stat().st_size, 24e6, rtol=0.05)


def test_prompts_that_differ_beside_the_question_are_different() -> None:
    """As text or as the only turn they are one; a system message, tools or template options make another prompt."""
    ask = (Message("user", "q"),)
    others = [
        (Message("system", "Be brief."), *ask),
        (Message("system", "Be kind."), *ask),
        Conversation(ask, ({"name": "weather"},)),
        Conversation(ask, (), {"enable_thinking": False}),
        (Message("user", "q", rest={"name": "Ann"}),),
    ]
    keys = {prompt_key(prompt) for prompt in ("q", ask, *others)}
    assert prompt_key("q") == prompt_key(ask) and len(keys) == 1 + len(others)

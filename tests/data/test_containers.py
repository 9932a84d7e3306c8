"""The same three rows in every container that is read; containers that are refused, each by one sentence."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import socket
import tracemalloc
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import ipc, parquet

from preftree.data.rows.faults import FAULTS, RowFault
from preftree.data.rows.raw_row import MAX_ROW_BYTES
from preftree.data.sources.reader import find_source, read_rows
from preftree.data.tools.inspect import inspect_file
from preftree.errors import DataError
from support.datafiles import read_all

ROWS = [
    {"prompt": "q1", "chosen": "a, b; c\td\nnext line", "rejected": 'said "no"'},
    {"prompt": "q2", "chosen": "é \U0001f98a \u2028 \u2029 \x85 end", "rejected": "[{\\"},
    {"prompt": "q3", "chosen": '"', "rejected": ";;;;;"},
]
ENCODINGS = (
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-be",
    "utf-16-le without a mark",
    "utf-16-be without a mark",
    "utf-32",
)
BIG = MAX_ROW_BYTES + 1


def dumped(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def table(delimiter: str, header: str | None = None) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter)
    if header is None:
        writer.writeheader()
    writer.writerows(ROWS)
    return (header or "") + text.getvalue()


LINES = "".join(dumped(row) + "\n" for row in ROWS)
OBJECTS = "\n".join(dumped(row, indent=2) for row in ROWS)
TEXTS = {
    "lines": (".jsonl", LINES),
    "lines that end in CR LF": (".jsonl", "".join(dumped(row) + "\r\n" for row in ROWS)),
    "lines after blank ones": (".jsonl", " \n\n" + LINES),
    "lines in .ndjson": (".ndjson", LINES),
    "lines in .json": (".json", LINES),
    "array": (".json", dumped(ROWS)),
    "array over lines": (".json", dumped(ROWS, indent=1)),
    "array in .jsonl": (".jsonl", dumped(ROWS)),
    "array over lines in .jsonl": (".jsonl", dumped(ROWS, indent=4)),
    "array with a line a row": (".jsonl", "[\n" + ",\n".join(map(dumped, ROWS)) + "\n]\n"),
    "objects over lines": (".json", OBJECTS),
    "objects over lines in .jsonl": (".jsonl", "\n" + OBJECTS.replace("\n", "\r\n") + "\r\n"),
    "objects on one line": (".jsonl", " ".join(map(dumped, ROWS))),
    **{f"list under {name}": (".json", dumped({name: ROWS})) for name in ("data", "rows", "examples", "instances")},
    "list over lines": (".json", dumped({"train": ROWS}, indent=2)),
    "list in .jsonl": (".jsonl", dumped({"data": ROWS}) + "\n"),
    "list among other keys": (
        ".json",
        dumped({"version": 1, "tags": ["a"], "data": [1, "rows"], "rows": ROWS, "by": {"names": []}, "data2": None}),
    ),
    "commas": (".csv", table(",")),
    "semicolons": (".csv", table(";")),
    "tabs": (".csv", table("\t")),
    "tabs in .tsv": (".tsv", table("\t")),
    "a header in quotes": (".csv", table(";", 'prompt;"chosen";"rejected"\r\n')),
    "a header after blank lines": (".csv", "\r\n\n" + table(";")),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        *(("", encoding) for encoding in ENCODINGS),
        (".gz", "utf-8"),
        (".zst", "utf-8"),
        (".gz", "utf-16"),
        (".zst", "utf-16"),
    ],
)
def test_the_same_rows_from_every_text(name: str, packed: str, encoding: str, tmp_path: Path) -> None:
    suffix, text = TEXTS[name]
    path = write(tmp_path / f"ROWS{suffix.upper()}{packed}", encoded(text, encoding))
    assert rows_in(path) == ROWS


def encoded(text: str, encoding: str) -> bytes:
    return (codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b"") + text.encode(encoding.split()[0])


def write(path: Path, content: bytes) -> Path:
    """A file, packed as its name says."""
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = pa.Codec("zstd").compress(content, asbytes=True)
    path.write_bytes(content)
    return path


def rows_in(path: Path) -> list[Any]:
    return [raw.row for raw in read_rows(find_source(str(path)))]


def places(path: Path) -> list[tuple[int, str]]:
    """Each row's line, with its fault."""
    rows = read_rows(find_source(str(path)))
    return [(raw.where.line, raw.row.fault if isinstance(raw.row, RowFault) else "") for raw in rows]


def as_stream(path: Path) -> None:
    with ipc.new_stream(path, (data := pa.Table.from_pylist(ROWS)).schema) as stream:
        stream.write_table(data, max_chunksize=2)


def as_file(path: Path) -> None:
    with ipc.new_file(path, (data := pa.Table.from_pylist(ROWS)).schema) as stream:
        stream.write_table(data, max_chunksize=2)


def as_parquet(path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(ROWS), path)


def in_subfolder(path: Path) -> None:
    (path / "data").mkdir(parents=True)
    (path / "images").mkdir()
    (path / ".cache").mkdir()
    for folder in (path, path / "images"):
        (folder / "README.md").write_text("no data")
    (path / "dataset_infos.json").write_text("{}")
    (path / ".cache" / "old.jsonl").write_text("{}")
    as_parquet(path / "data" / "train-00000-of-00001.parquet")


def saved(path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(path, num_shards=2)


def saved_split(path: Path) -> None:
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(path)


def saved_one_of_two(path: Path) -> None:
    DatasetDict({"test": Dataset.from_list(ROWS[:1]), "train": Dataset.from_list(ROWS)}).save_to_disk(path.parent)


TABLES: dict[str, Callable[[Path], None]] = {
    "rows.parquet": as_parquet,
    "stream.arrow": as_stream,
    "file.arrow": as_file,
    "folder": in_subfolder,
    "saved": saved,
    "saved_split": saved_split,
    "two/train": saved_one_of_two,
}


@pytest.mark.parametrize("name", TABLES)
def test_the_same_rows_from_every_table_and_folder(name: str, tmp_path: Path) -> None:
    TABLES[name](tmp_path / name)
    assert rows_in(tmp_path / name) == ROWS


def test_lines_whose_rows_hold_lists_under_such_names_stay_lines(tmp_path: Path) -> None:
    rows = [{"id": number, "messages": [{}], "data": [{"role": "user"}]} for number in range(2)]
    assert rows_in(write(tmp_path / "rows.jsonl", "\n".join(map(dumped, rows)).encode())) == rows


def test_the_delimiter_is_looked_for_outside_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", b'"a,b,c";d\n1;"2;3"\n')
    assert rows_in(path) == [{"a,b,c": "1", "d": "2;3"}]


def test_rows_are_numbered_by_line_or_by_item(tmp_path: Path) -> None:
    for text, lines in (
        ("\n" + LINES, [2, 3, 4]),
        ("\n\n" + OBJECTS, [3, 8, 13]),
        (dumped(ROWS, indent=2), [1, 2, 3]),
        (dumped({"data": ROWS}, indent=2), [1, 2, 3]),
    ):
        path = write(tmp_path / "rows.json", text.encode())
        assert [line for line, _ in places(path)] == lines


ONE = dumped(ROWS[0])
BROKEN_TEXTS = {
    "two lists": (
        ".json",
        dumped({"train": ROWS, "test": ROWS}),
        "rows.json holds lists of objects under 'train' and 'test', wanted one list of rows",
    ),
    "two lists, the first of no rows": (".json", dumped({"meta": [{}], "data": ROWS}), "under 'meta' and 'data'"),
    "a name twice": (".json", f'{{"data": [{ONE}], "data": [{ONE}]}}', "under 'data' and 'data'"),
    "a list without end": (".json", f'{{"data": [{ONE},\n{ONE}', "rows.json:2: not JSON .the file ends where ','"),
    "an object without end": (".json", f'{{"data": [{ONE}]', "rows.json:1: not JSON .the file ends where ',' or '}'"),
    "text after the list": (".json", f'{{"data": [{ONE}]}} x', "rows.json:1: not JSON .text after the end of its obj"),
    "a broken item": (
        ".json",
        f'{{"data": [{ONE},\n{{"a" 1}}]}}',
        r"rows.json:2: not JSON .row 2: Expecting ':' delim",
    ),
    "a broken key": (".json", f'{{"data": [{ONE}],\n1: 2}}', "rows.json:2: not JSON .wanted '\"', got '1: 2}'"),
    "a broken object": (".jsonl", OBJECTS + '\n{"prompt": x}', r"rows.jsonl:16: not JSON .Expecting value at 'x}'"),
    "an object without its end": (".jsonl", OBJECTS[:-1], "rows.jsonl:11: not JSON .the file ends within it"),
    "an array that lines follow": (".jsonl", f"[{ONE},\n{ONE}]\n{ONE}", "rows.jsonl:3: not JSON .text after the end"),
    "a header of one name": (".csv", "a;b;a\n1;2;3\n", "rows.csv names column 'a' twice; rename one"),
    "a header that is no CSV": (".csv", 'a,"b"c\n', "rows.csv:1: the header is not CSV"),
    "a header over the length": (".csv", "a" * BIG + "\nx\n", "rows.csv:1: the header is not CSV .longer than 16 MiB"),
    "no rows": (".csv.gz", "prompt,chosen\n", "holds no rows"),
}


@pytest.mark.parametrize("name", BROKEN_TEXTS)
def test_a_broken_text_is_one_sentence(name: str, tmp_path: Path) -> None:
    suffix, text, sentence = BROKEN_TEXTS[name]
    refused(write(tmp_path / f"rows{suffix}", text.encode()), sentence)


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        inspect_file(str(path))
    assert "\n" not in str(caught.value)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.csv.gz", b"plain", "rows.csv.gz cannot be read: Not a gzipped file"),
        ("rows.json.zst", b"plain", "rows.json.zst cannot be read: ZSTD decompress failed"),
        (
            "rows.jsonl",
            codecs.BOM_UTF16_LE + b"{\0}\0\n",
            "rows.jsonl is not utf-16-le, which its first bytes say",
        ),
        ("rows.jsonl", codecs.BOM_UTF32_LE + b"{\0}\0\n\0\0\0", "rows.jsonl is not utf-32-le"),
        ("rows.arrow", b"", "rows.arrow is not arrow that can be read"),
        ("rows.arrow", b"ARROW1 and more", "rows.arrow is not arrow that can be read"),
        ("rows.json", b'{"version": 1, "data": []}', "rows.json holds no rows: its list 'data' is empty"),
        ("rows.parquet", b"plain", "rows.parquet is not parquet that can be read"),
        (
            "rows.zip",
            b"PK",
            "rows.zip must end in one of .jsonl, .ndjson, .json, .csv, .tsv .each also with .gz or .zst",
        ),
    ],
)
def test_what_a_file_is_not_is_one_sentence(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, sentence)


@pytest.mark.parametrize("name", ["rows.jsonl.zst", "rows.csv.gz", "stream.arrow", "file.arrow"])
def test_half_a_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    rng = np.random.default_rng(0)
    if name in TABLES:
        TABLES[name](path)
    else:
        write(path, b"prompt,chosen\n" + b"".join(b"%d,x\n" % number for number in rng.integers(1e9, size=20_000)))
    half(path)
    refused(path, name)


def test_damage_within_an_arrow_file_is_one_sentence_and_no_crash(tmp_path: Path) -> None:
    offsets = pa.py_buffer(np.array([0, 1, 1_000_000, 7], np.int32))
    column = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"abcdefg"))
    batch = pa.record_batch({"prompt": column})
    with ipc.new_stream(tmp_path / "rows.arrow", batch.schema) as stream:
        stream.write_batch(batch)
    refused(tmp_path / "rows.arrow", "rows.arrow: row 2 is damaged")


def test_bad_bytes_in_an_arrow_file_are_a_fault_of_their_row(tmp_path: Path) -> None:
    raw = pa.array([b"ok", b"\xff", b"fine"], pa.binary())
    batch = pa.record_batch({"prompt": pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])})
    with ipc.new_stream(tmp_path / "rows.arrow", batch.schema) as stream:
        stream.write_batch(batch)
    assert places(tmp_path / "rows.arrow") == [(1, ""), (2, "bad_utf8"), (3, "")]


def test_a_date_that_python_does_not_know_is_its_number(tmp_path: Path) -> None:
    days = pa.array([1, 2**31 - 1], pa.date32())
    parquet.write_table(pa.table({"prompt": ["p", "q"], "day": days}), tmp_path / "rows.parquet")
    first, second = rows_in(tmp_path / "rows.parquet")
    assert first["day"] == date(1970, 1, 2)
    assert second["day"] == 2**31 - 1  # no prompt or response is a date, so the row is as good as any


def test_a_table_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    column = pa.array(["a"])
    double = pa.Table.from_arrays([column, column], names=["prompt", "prompt"])
    parquet.write_table(double, tmp_path / "rows.parquet")
    refused(tmp_path / "rows.parquet", "rows.parquet names column 'prompt' twice; rename one")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def linked_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(path.parent)  # the name of a socket is short
        bound.bind(path.name)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(pipe, "pipe"), (linked_device, "device"), (bound_socket, "socket")],
    ids=lambda item: item if isinstance(item, str) else item.__name__,
)
@pytest.mark.parametrize("name", ["rows.jsonl", "folder/rows.jsonl", "noname"])
def test_only_regular_files_are_opened(
    make: Callable[[Path], None], kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    make(tmp_path / name)
    asked = tmp_path / name.partition("/")[0]
    with pytest.raises(DataError, match=rf"{tmp_path / name} is a {kind}, wanted a regular file"):
        find_source(str(asked))


def test_folders_with_more_than_one_set_of_files_are_refused_by_name(tmp_path: Path) -> None:
    saved_one_of_two(tmp_path / "saved" / "train")
    for name in ("train", "test"):
        in_subfolder(tmp_path / "plain" / name)
        as_parquet(tmp_path / "plain" / name / "rows.parquet")
    saved(tmp_path / "lost")
    (tmp_path / "lost" / "data-00001-of-00002.arrow").unlink()
    saved(tmp_path / "broken")
    (tmp_path / "broken" / "state.json").write_text("{}")
    (tmp_path / "deep" / "a" / "b").mkdir(parents=True)
    as_parquet(tmp_path / "deep" / "a" / "b" / "rows.parquet")
    for name, sentence in (
        ("saved", r"saved holds 2 splits .test, train.; name one, as \S*saved/test"),
        ("plain", r"plain holds 2 subfolders with data files .test, train.; name one, as \S*plain/test"),
        ("lost", "state.json lists data-00001-of-00002.arrow, which is no .arrow file there"),
        ("broken", "state.json is not as save_to_disk writes it .KeyError.'_data_files'..; save the data set anew"),
        ("deep", "deep holds no data file, wanted one of .* in it or in one subfolder"),
    ):
        with pytest.raises(DataError, match=sentence):
            find_source(str(tmp_path / name))


def test_splits_side_by_side_are_no_one_set(tmp_path: Path) -> None:
    """As the hub stores them: what belongs together begins with the name of its split."""
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        as_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=rf"holds 2 splits \(test, train\); name one, as '{tmp_path}/train\*'"):
        find_source(str(tmp_path))
    names = [Path(file).name for file in find_source(f"{tmp_path}/train*").files]
    assert names == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    with pytest.raises(DataError, match="matches no data file"):
        find_source(f"{tmp_path}/valid*")
    (tmp_path / "test-00000-of-00001.parquet").rename(tmp_path / "testimonials.parquet")
    assert len(find_source(str(tmp_path)).files) == 3


DOUBLE = '{"prompt": "p", "chosen": "FIRST", "rejected": "r", "chosen": "SECOND"}'
DEEP = '{"prompt": "p", "chosen": [{"role": "user", "role": "user"}], "rejected": "r"}'


@pytest.mark.parametrize(("row", "key"), [(DOUBLE, "chosen"), (DEEP, "role"), ('{"": 1, "": 2}', "")])
@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("rows.jsonl", "%s\n%s\n%s", [1, 2, 3]),
        ("rows.json", "[%s, %s, %s]", [1, 2, 3]),
        ("rows.json", '{"data": [%s, %s, %s]}', [1, 2, 3]),
        ("rows.json", "%s %s\n\n%s", [1, 1, 3]),
    ],
)
def test_a_key_that_occurs_twice_is_a_fault_of_its_row(
    row: str, key: str, name: str, text: str, lines: list[int], tmp_path: Path
) -> None:
    path = write(tmp_path / name, (text % (ONE, row, ONE)).encode())
    assert places(path) == list(zip(lines, ["", "duplicate_key", ""]))
    fault = rows_in(path)[1]
    assert str(fault) == f"{key!r} occurs twice in one object; keep one of them" and fault.field == (key or "row")
    assert "duplicate_key" in FAULTS


def test_a_broken_line_with_a_key_twice_says_nothing_of_the_next(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", f'{ONE}\n{{"a": {{"b": 1, "b": 2}}\n{ONE}\n'.encode())
    assert places(path) == [(1, ""), (2, "bad_json"), (3, "")]


LONG = "x" * BIG
LONG_ROW = json.dumps({"prompt": LONG, "list": ['}"\\', [{}]], "text": "\\" * 70_000})
LONG_CELLS = f'"a ""quoted"" {LONG}\nnext, line",plain,"two\n""lines"""'


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("rows.jsonl", "%s\n%s\n%s", [1, 2, 3]),
        ("rows.json", "[%s, %s, %s]", [1, 2, 3]),
        ("rows.json", '{"rows": [%s, %s, %s]}', [1, 2, 3]),
        ("rows.json", "%s %s\n%s", [1, 1, 2]),
        ("rows.csv", "prompt,chosen,rejected\n%s\n%s\n%s\n", [2, 3, 6]),
    ],
)
@pytest.mark.parametrize(("packed", "shift"), [("", ""), (".zst", ""), ("", "x")])
def test_a_row_over_the_length_is_passed_and_the_next_one_read(
    name: str, text: str, lines: list[int], packed: str, shift: str, tmp_path: Path
) -> None:
    """The shift moves where blocks end by one: within an escape, or between two."""
    good, long = ("p,a,b", LONG_CELLS) if name == "rows.csv" else (ONE, LONG_ROW.replace("x", "x" + shift, 1))
    path = write(tmp_path / (name + packed), (text % (good, long, good)).encode())
    assert places(path) == list(zip(lines, ["", "line_too_long", ""]))


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("rows.jsonl", ONE + '\n{"prompt": "', '"}\n' + ONE),
        ("rows.json", f'[{ONE}, {{"prompt": "', f'"}}, {ONE}]'),
        ("rows.json", f'{{"data": [{ONE}, {{"prompt": "', f'"}}, {ONE}]}}'),
        ("rows.json", OBJECTS + '{"prompt": "', '"}' + ONE),
        ("rows.csv", 'prompt\nq\n"', '"\nq\n'),
    ],
)
def test_a_row_of_any_length_is_passed_in_bounded_memory(name: str, begin: str, end: str, tmp_path: Path) -> None:
    """200 MB of one row; what is held are a few copies of the longest row that may be."""
    path = tmp_path / f"{name}.zst"
    with pa.output_stream(path, compression="zstd") as stream:
        stream.write(begin.encode())
        for _ in range(200):
            stream.write(b"x" * 10**6)
        stream.write(end.encode())
    tracemalloc.start()
    found = [fault for _, fault in places(path)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found[-2:] == ["line_too_long", ""]
    assert peak < 4 * MAX_ROW_BYTES


def test_a_long_list_is_read_item_by_item(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    text = "a" * 15_000
    path.write_text(json.dumps({"version": "1", "data": [{"prompt": str(i), "chosen": text} for i in range(1600)]}))
    tracemalloc.start()
    assert sum(1 for _ in read_rows(find_source(str(path)))) == 1600
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.4e6 < path.stat().st_size / 9


def test_half_a_surrogate_pair_in_utf_16_is_a_fault_of_its_row(tmp_path: Path) -> None:
    text = f'{ONE}\n{{"prompt": "\ud800"}}\n{ONE}\n'
    path = write(tmp_path / "rows.jsonl", codecs.BOM_UTF16_LE + text.encode("utf-16-le", "surrogatepass"))
    assert places(path) == [(1, ""), (2, "bad_utf8"), (3, "")]


def test_an_unclosed_quote_is_a_fault_where_its_row_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", b'prompt;chosen;rejected\np;a;b\nq;"a;b\np;a;b\n')
    _, tally = read_all(str(path))
    assert [(row.line, row.fault) for row in tally.rejected] == [(3, "bad_csv")]


def test_a_quote_without_end_is_a_fault_however_much_follows(tmp_path: Path) -> None:
    """40 MB of lines behind it are passed, and not held; Python's csv takes four bytes a character."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b'prompt\np\n"q\n' + (b"x" * 4095 + b"\n") * (10 << 10))
    tracemalloc.start()
    assert places(path) == [(2, ""), (3, "bad_csv")]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 7 * MAX_ROW_BYTES
    assert str(rows_in(path)[1]) == "the row is not CSV: a quote in it has no end"

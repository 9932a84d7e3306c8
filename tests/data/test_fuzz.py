"""Hostile rows and files: a row is accepted and survives the round trip, or is rejected with file, line and field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preftree.data.formats import FORMATS
from preftree.data.rows.columns import Columns, parse_columns
from preftree.data.rows.conversion import plain_text, to_row
from preftree.data.rows.faults import FAULTS, RowFault, Tally
from preftree.data.rows.texts import named_texts
from preftree.data.sources.reader import Source, find_source, read_records, read_rows
from preftree.data.store.example import join
from preftree.data.tokens.budgets import UNLIMITED
from preftree.data.tokens.encoder import make_encoder
from preftree.data.tokens.row_examples import make_examples, render_row
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import DataError
from preftree.records import (
    Demonstration,
    Label,
    Message,
    Preference,
    Provenance,
    Ranking,
    Record,
    Text,
    template_options_of,
    tools_of,
)
from preftree.tree.layout import TokenSequence
from support.chat_templates import CALLS, CHATML, OPENS
from support.datafiles import EXAMPLES
from support.tokenizers import END, START, chat_tokenizer

BESIDE = [
    "weight",
    "margin",
    "tie",
    "prompt",
    "label",
    "system",
    "tools",
    "chat_template_kwargs",
    "messages",
    "responses",
    "rejected",
    "images",
]
MAPPINGS = [
    parse_columns(line)
    for line in (
        "prompt=prompt,chosen=chosen,rejected=rejected,weight=weight,margin=margin",
        "prompt=data.prompt,a=data.answer1,b=data.answer2,winner=annotations.*.result.0.value.selected:left|right|tie",
        "messages=context,a=response1,b=response2,winner=overall_preference:<0|>0|0,strength=overall_preference",
        "prompt=prompt,a=response_a,b=response_b,a_wins=winner_model_a,b_wins=winner_model_b,tie=winner_tie",
        "prompt=history,a=human_ref_A,b=human_ref_B,score_a=score_A,score_b=score_B",
        "prompt=instruction,responses=completions.*.response,scores=completions.*.overall_score",
        "prompt=prompt,responses=response1|response2|response3,ranks=preference.0.value.*.rank:1",
        "messages=messages,response=completion,label=label:true|false,system=system,tools=tools",
        "messages=conversations",
    )
]

hostile_text = st.text(max_size=12) | st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\ud800",
        "\udcff",
        "\ufffd",
        "\u2028",
        "<|im_end|>",
        "\n\nHuman: a\n\nAssistant: b",
        "\n\nAssistant:",
        "nan",
        "1e999",
    ]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**310)
    | st.floats(allow_nan=True, allow_infinity=True)
    | hostile_text
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile_text, inner, max_size=3), max_leaves=6
)
roles = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "function_call"]) | hostile_text
KEYS = {
    "train": scalars,
    "loss_weight": scalars,
    "tool_calls": anything,
    "reasoning_content": hostile_text,
    "value": anything,
    "parts": anything,
}
chats = st.lists(st.fixed_dictionaries({"role": roles, "content": hostile_text}, optional=KEYS), max_size=4)
values = st.one_of(hostile_text, chats, scalars, anything)


T, R = TypeVar("T"), TypeVar("R")


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A sound row with some fields, at any depth, replaced by anything."""
    row = json.loads(json.dumps(EXAMPLES[draw(st.sampled_from(sorted(EXAMPLES)))]))
    for _ in range(draw(st.integers(0, 2))):
        places = list(walk(row))
        container, key = places[draw(st.integers(0, len(places) - 1))]
        if draw(st.integers(0, 4)) == 0:
            del container[key]
            if not row:
                break
        else:
            container[key] = draw(values)
    for name in draw(st.lists(st.sampled_from(BESIDE), max_size=1)):
        row[name] = draw(values)
    return row


def read(reads: Callable[[T], R], row: T) -> R | RowFault:
    try:
        return reads(row)
    except RowFault as fault:
        return fault


def walk(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a nested value, as a container and a key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from walk(value[key])


TOKENIZER = chat_tokenizer()
make_encoder(TOKENIZER)


def survives_or_is_rejected(row: dict[str, Any], other: str, mapping: Columns) -> None:
    """Under every format that a row looks like, under one that it may not, and under a mapping of columns."""
    for name in {other, *(form.name for form in FORMATS.values() if form.detect(row))}:
        has_a_place(read(FORMATS[name].read, row), name)
    has_a_place(read(mapping.read, row), "columns")


def has_a_place(record: Record | RowFault, name: str) -> None:
    """A fault names its field in one line that can be printed; a record is the same after it was written."""
    if isinstance(record, RowFault):
        assert record.fault in FAULTS and record.field and "\n" not in record.message
        record.message.encode()
        return
    again = json.loads(json.dumps(to_row(record), allow_nan=False))
    hits = [form for form in FORMATS.values() if form.detect(again)]
    if name not in ("tldr_pairs", "hh") and hits and hits[0].name in ("tldr_pairs", "hh"):
        return  # read as another format against its looks, it still looks like what it is
    assert hits and hits[0].read(again) == record


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(rows(), st.sampled_from(sorted(FORMATS)), st.sampled_from(MAPPINGS))
def test_a_row_survives_or_is_rejected_by_place(row: dict[str, Any], other: str, mapping: Columns) -> None:
    survives_or_is_rejected(row, other, mapping)


@pytest.mark.slow
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
@given(rows(), st.sampled_from(sorted(FORMATS)), st.sampled_from(MAPPINGS))
def test_ten_thousand_rows_survive_or_are_rejected(row: dict[str, Any], other: str, mapping: Columns) -> None:
    survives_or_is_rejected(row, other, mapping)


@st.composite
def chat_rows(draw: st.DrawFn) -> dict[str, Any]:
    """A sound conversation with hostile contents: several turns, calls of tools, thoughts, and what stands beside."""
    content = hostile_text.filter(str.strip)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"place": "x"}}}
    turns: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(content)})
        if draw(st.integers(0, 3)) == 0:
            turns.append({"role": "assistant", "content": "", "tool_calls": [call]})
            turns.append({"role": "tool", "content": draw(content)})
        turns.append({"role": "assistant", "content": draw(content)})
        if draw(st.integers(0, 3)) == 0:
            turns[-1]["reasoning_content"] = draw(content)
    row: dict[str, Any] = {"system": draw(content)} if draw(st.booleans()) else {}
    row |= {"tools": [{"type": "function", "function": {"name": "weather"}}]} if draw(st.booleans()) else {}
    shape = draw(st.sampled_from(["messages", "pair", "whole", "label"]))
    other = [{"role": "assistant", "content": draw(content)}]
    if shape == "pair":
        return row | {"prompt": turns[:-1], "chosen": turns[-1:], "rejected": other}
    if shape == "whole":
        return row | {"chosen": turns, "rejected": turns[:-1] + other}
    return row | {"messages": turns} | ({"label": draw(st.booleans())} if shape == "label" else {})


CHATS = [(tokenizer, make_encoder(tokenizer)) for tokenizer in (CHATML, OPENS, CALLS)]


def keeps_its_structure(record: Record) -> None:
    """Under three templates, against what transformers renders of the whole list of messages at once.

    Ids decode to that rendering, a turn begins and ends where a message does, and what is scored is what the rendering
    has beyond that of the prompt.
    """
    kind = {Preference: "pair", Ranking: "list", Label: "response", Demonstration: "demonstration"}[type(record)]
    for tokenizer, encoder in CHATS:
        render = partial(render_row, tokenizer=tokenizer, encoder=encoder, kind=kind)
        row, tally = read(partial(render, Provenance("f", 1)), record), Tally()
        if isinstance(row, RowFault):
            assert row.fault in FAULTS and row.field
            continue
        texts = [text for name, text in named_texts(record) if name != "prompt"]
        for example in make_examples([row], encoder, UNLIMITED, "drop", tally):
            assert len(example.responses) == len(texts)
            for response, spans, text in zip(example.responses, example.scored, texts, strict=True):
                sequence = join(example.prompt, response, spans)
                has_the_structure_of(record.prompt, text, sequence, tokenizer)


def has_the_structure_of(prompt: Text, response: Text, sequence: TokenSequence, tokenizer: Any) -> None:
    def rendering(*turns: Message, **more: Any) -> str:
        messages, options = plain_text(turns), template_options_of(prompt)
        return tokenizer.apply_chat_template(messages, tools_of(prompt) or None, tokenize=False, **options, **more)

    assert isinstance(prompt, tuple) and isinstance(response, tuple)
    whole, asked = rendering(*prompt, *response), rendering(*prompt, add_generation_prompt=True)
    whole = whole[: whole.rindex(END) + len(END)]
    ids = sequence.ids.tolist()
    assert tokenizer.decode(ids) == whole and whole.startswith(asked)
    begin, end = (tokenizer.convert_tokens_to_ids(mark) for mark in (START, END))
    shown = whole.count(f"{START}system\n[") if tools_of(prompt) else 0  # the turn that lists the tools
    assert ids.count(begin) == ids.count(end) == len(prompt) + len(response) + shown
    if len(response) == 1:
        assert tokenizer.decode(sequence.ids[sequence.scored].tolist()) == whole[len(asked) :]
    else:  # turns of tools between those of the assistant are not scored
        closed = int(np.count_nonzero(sequence.ids[sequence.scored] == end))
        assert closed == sum(turn.role == "assistant" and turn.train is not False for turn in response)


def accepted_conversations(row: dict[str, Any], mapping: Columns) -> Iterator[Record]:
    readers = [form.read for form in FORMATS.values() if form.detect(row) and form.kind is not None]
    for reads in (*readers, mapping.read):
        record = read(reads, row)
        if not isinstance(record, RowFault) and not isinstance(record.prompt, str):
            yield record


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(rows() | chat_rows(), st.sampled_from(MAPPINGS))
def test_accepted_conversations_keep_their_structure(row: dict[str, Any], mapping: Columns) -> None:
    for record in accepted_conversations(row, mapping):
        keeps_its_structure(record)


@pytest.mark.slow
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
@given(rows() | chat_rows(), st.sampled_from(MAPPINGS))
def test_ten_thousand_accepted_conversations_keep_their_structure(row: dict[str, Any], mapping: Columns) -> None:
    for record in accepted_conversations(row, mapping):
        keeps_its_structure(record)


lines = st.one_of(
    rows().map(lambda row: json.dumps(row).encode()),
    rows().map(lambda row: json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
    anything.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"{" * 5000, b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe", b'{"a": 1e400}', b"1" * 5000]),
)


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(st.lists(lines, min_size=1, max_size=8), st.sampled_from(["rows.jsonl", "rows.json", "rows.csv"]))
def test_any_bytes_are_rows_faults_or_one_sentence(tmp_path: Path, content: list[bytes], name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\n".join(content) if name != "rows.json" else b"[" + b",".join(content) + b"]")
    source = Source(str(path), (str(path),))
    for form in (FORMATS["explicit"], FORMATS["messages"], FORMATS["oasst"], FORMATS["oasst_trees"]):
        tally, stopped = Tally(keep=100), None
        try:
            count = sum(1 for _ in read_records(source, form, tally))
        except DataError as error:
            stopped = str(error)
        if stopped is None:
            assert count + len(tally.rejected) + tally.repeated == tally.rows
        else:
            assert str(path) in stopped and "\n" not in stopped
        assert all(row.line >= 1 and row.field and row.file == str(path) for row in tally.rejected)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.lists(rows(), min_size=3, max_size=12), st.sampled_from(sorted(FORMATS)))
def test_tokenisation_never_fails_otherwise(tmp_path: Path, content: list[dict[str, Any]], name: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*content, EXAMPLES[name]]))
    kind = "demonstration" if FORMATS[name].kind == "demonstration" else "pair"
    try:
        store, report = tokenize_file(
            str(path), TOKENIZER, kind=kind, cache_dir=tmp_path / "cache", format_name=name, max_rejected_share=1.0
        )
    except DataError:
        return
    assert len(store) == report.examples and report.rows == len(content) + 1
    for index in range(len(store)):
        for sequence in store[index].sequences:
            assert sequence.scored.any() and not sequence.scored[0]


def test_a_deep_row_is_read_or_rejected(tmp_path: Path) -> None:
    """Nesting in a field that nobody reads does no harm."""
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", "meta": deep}))
    assert [isinstance(raw.row, dict) for raw in read_rows(find_source(str(path)))] == [True]

"""What `preftree data inspect --model` counts, renders and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preftree.cli.data import app
from preftree.errors import DataError
from support.datafiles import said, write_rows
from support.tokenizers import END, EOS, chat_tokenizer, plain_tokenizer

run = CliRunner()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    chat_tokenizer().save_pretrained(tmp_path / "chat")
    plain_tokenizer().save_pretrained(tmp_path / "plain")
    rows = [{"prompt": [said("user", "a" * size)], "completion": [said("assistant", "b <b>")]} for size in (1, 40, 400)]
    write_rows(
        tmp_path / "chats.jsonl", rows + [{"prompt": [said("user", END)], "completion": [said("assistant", "b")]}]
    )
    return tmp_path


def test_json_gains_tokens_limits_marks_and_rendered_rows(place: Path) -> None:
    options = ["--model", str(place / "chat"), "--max-length", "30", "--max-length", "1000", "--json"]
    result = run.invoke(app, ["inspect", str(place / "chats.jsonl"), *options])
    found = json.loads(result.stdout)
    assert (found["rows"], found["accepted"], found["faults"]) == (4, 3, {"special_token": 1})
    prompt = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert found["rendered"][0] == {"prompt": prompt, "responses": [f"b <b>{END}"]}
    tokenizer = chat_tokenizer()
    sizes = [len(tokenizer(row["prompt"])["input_ids"]) for row in found["rendered"]]
    assert (found["tokens"]["prompt"]["min"], found["tokens"]["prompt"]["max"]) == (sizes[0], sizes[-1])
    response = len(tokenizer(f"b <b>{END}")["input_ids"])
    assert found["tokens"]["response"] == {"min": response, "median": response, "mean": response, "max": response}
    over = sum(size + response > 30 for size in sizes)
    assert found["max_length"]["30"] == {"over": over, "prompt_over": sum(size >= 30 for size in sizes)} and over
    assert found["max_length"]["1000"] == {"over": 0, "prompt_over": 0}
    assert found["special_tokens"] == {"<|im_start|>": 6, END: 6}


def test_the_terminal_and_the_page_mark_what_is_scored(place: Path) -> None:
    page = place / "page.html"
    options = ["--model", str(place / "chat"), "--max-length", "30", "--html", str(page)]
    result = run.invoke(app, ["inspect", str(place / "chats.jsonl"), *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for words in (
        "as the model sees it",
        "<|im_start|>assistant",
        f"b <b>{END}",
        "max_length 30: ",
        "special tokens: ",
    ):
        assert words in result.stdout, words
    html = page.read_text()
    assert "<mark>b &lt;b&gt;&lt;|im_end|&gt;</mark>" in html and "max_length 30: " in html
    assert "<script" not in html and "http://" not in html and "https://" not in html
    run.invoke(app, ["inspect", str(place / "chats.jsonl"), *options])  # its own page is replaced
    page.write_text("mine")
    refused = run.invoke(app, ["inspect", str(place / "chats.jsonl"), *options])
    assert isinstance(refused.exception, DataError) and page.read_text() == "mine"


def test_plain_text_shows_the_eos_that_is_put_after_it(place: Path) -> None:
    path = write_rows(place / "pairs.jsonl", [{"prompt": "2+2=", "chosen": " 4", "rejected": " 5"}])
    found = json.loads(run.invoke(app, ["inspect", path, "--model", str(place / "plain"), "--json"]).stdout)
    assert found["rendered"] == [{"prompt": "2+2=", "responses": [f" 4{EOS}", f" 5{EOS}"]}]


def test_all_turns_are_shown_where_asked(place: Path) -> None:
    turns = [said("user", "a"), said("assistant", "one"), said("user", "b"), said("assistant", "two")]
    path = write_rows(place / "turns.jsonl", [{"messages": turns}])
    page = place / "page.html"
    options = ["--model", str(place / "chat"), "--turns", "all", "--html", str(page)]
    assert run.invoke(app, ["inspect", path, *options]).exit_code == 0
    assert all(f"<mark>{word}&lt;|im_end|&gt;</mark>" in page.read_text() for word in ("one", "two"))
    assert run.invoke(app, ["inspect", path, "--turns", "all"]).exit_code == 2


def test_prompts_alone_are_counted(place: Path) -> None:
    rows = [{"prompt": [said("user", f"What is {number}?")], "id": number} for number in range(3)]
    path = write_rows(place / "prompts.jsonl", rows)
    result = run.invoke(app, ["inspect", path])
    assert result.exit_code == 0 and "prompts: prompts without responses" in result.stdout and "3 rows" in result.stdout
    found = json.loads(run.invoke(app, ["inspect", path, "--model", str(place / "chat"), "--json"]).stdout)
    assert (found["format"], found["accepted"]) == ("prompts", 3) and set(found["tokens"]) == {"prompt"}
    assert found["rendered"][0]["responses"] == []
    odd = write_rows(place / "odd.jsonl", [{"prompt": "a", "good": "It is so.", "bad": "It is not."}])
    assert isinstance(run.invoke(app, ["inspect", odd]).exception, DataError)

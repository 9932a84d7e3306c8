from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.data.kinds import as_kind
from preftree.errors import DataError
from preftree.generate import talk
from preftree.generate.hf import Generation
from preftree.generate.talk import Answer, Talk, require_text, shuffle_sides
from preftree.records import Message, Preference
from support.datafiles import read_all
from support.models import tiny_llama
from support.small_runs import make_model
from support.tokenizers import chat_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    make_model(folder / "one")
    make_model(folder / "two", seed=1)
    tokenizer = chat_tokenizer()
    for seed in (3, 4):
        tiny_llama(len(tokenizer), seed=seed).save_pretrained(folder / f"chat{seed}")
        tokenizer.save_pretrained(folder / f"chat{seed}")
    return folder


def call(lines: list[str], *words: object) -> str:
    command = ["chat", *map(str, words), "--max-new-tokens", "6"]
    done = CliRunner().invoke(app, command, input="".join(f"{line}\n" for line in lines), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_talk_is_drawn_again_with_its_seed(place: Path) -> None:
    lines = ["the plot", "/foo", "and?", "/quit", "never said"]
    told = call(lines, place / "one")
    assert told == call(lines, place / "one")
    assert told != call(lines, place / "one", "--seed", "1")
    assert told.count("model>") == 2
    assert "No chat template" in told


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are text, which those of random weights need not be."""

    def said(model: Any, tokenizer: Any, ids: Any, sampling: Any, *, first_row: int, show: Any) -> list[Generation]:
        return [Generation(f"answer {first_row}", (5,), 0)]

    monkeypatch.setattr(talk, "generate", said)


@pytest.mark.usefixtures("numbered")
def test_choices_become_a_preference_file_that_the_data_room_reads(place: Path) -> None:
    prefs = place / "prefs.jsonl"
    lines = ["Hi there", "2", "More?", "no", "t", "Again", "s", "/new", "Bye", "1"]
    told = call(lines, place / "chat3", "--against", place / "chat4", "--record", prefs, "--system", "Be kind.")
    assert told.count("Recorded in") == 3
    rows = [json.loads(line) for line in prefs.read_text().splitlines()]
    assert [row["chosen_model"].endswith("chat4") for row in rows] == [True, False, False]
    records, tally = read_all(str(prefs))
    assert tally.rows == len(records) == 3
    first, second, last = (as_kind(record, "preference", chosen_side=False)[0] for record in records)
    assert isinstance(first, Preference) and isinstance(second, Preference) and isinstance(last, Preference)
    assert first.prompt == (Message("system", "Be kind."), Message("user", "Hi there"))
    assert second.tie and not first.tie
    # The talk went on with what was better.
    assert second.prompt == (*first.prompt, *first.chosen, Message("user", "More?"))
    assert last.prompt == (Message("system", "Be kind."), Message("user", "Bye"))


@pytest.mark.usefixtures("numbered")
def test_blind_says_whose_answer_it_was_after_the_choice(place: Path) -> None:
    told = call(["Hi", "1"], place / "one", "--against", place / "two", "--blind", "--record", place / "blind.jsonl")
    before, after = told.split("better>")
    assert str(place / "one") not in before.replace("\n", "")
    assert "1 was" in after
    answers = [Answer("a", "x"), Answer("b", "y")]
    first = [shuffle_sides(answers, seed=0, number=number)[0].speaker for number in range(200)]
    assert 70 < first.count("a") < 130


def test_what_cannot_be_said_is_told_and_the_talk_goes_on(place: Path) -> None:
    told = call(["see <|endoftext|>", "fine"], place / "one")
    assert "error: chat:1: 'prompt' writes out the special token '<|endoftext|>'" in " ".join(told.split())
    assert told.count("model>") == 2


def test_models_of_two_kinds_cannot_be_compared(place: Path) -> None:
    done = CliRunner().invoke(app, ["chat", str(place / "one"), "--against", str(place / "chat3")])
    assert "has a chat template and the other has none" in str(done.exception)


@pytest.mark.parametrize(("text", "said"), [("b\ufffd", "bytes that are no text"), (" ", "is empty")])
def test_an_answer_that_no_file_may_hold_is_refused(text: str, said: str) -> None:
    with pytest.raises(DataError, match=f"{said}.*; ask again"):
        require_text(Answer("x", text))


@pytest.mark.usefixtures("numbered")
def test_a_question_that_comes_up_again_gets_other_draws_and_sides(place: Path) -> None:
    record = place / "again.jsonl"
    told = call(["Hi", "1", "/new"] * 8, place / "one", "--against", place / "two", "--blind", "--record", record)
    told += call(["Hi", "1", "/new"] * 8, place / "one", "--against", place / "two", "--blind", "--record", record)
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(rows) == 16
    assert len({row["chosen"] for row in rows}) == 16
    assert {row["chosen_model"] for row in rows} == {str(place / "one"), str(place / "two")}


def test_undo_takes_a_question_and_its_answer_back() -> None:
    said = Talk(True).ask("a").hear("b").ask("c").hear("d")
    assert said.undo() == Talk(True).ask("a").hear("b")
    assert said.undo().undo().undo() == Talk(True)


@pytest.mark.parametrize("words", [["--blind"], ["--record", "x.jsonl"]])
def test_options_of_two_models_are_refused_with_one(place: Path, words: list[str]) -> None:
    done = CliRunner().invoke(app, ["chat", str(place / "one"), *words])
    assert "are for two models" in str(done.exception)

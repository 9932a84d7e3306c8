from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console
from typer.testing import CliRunner

from preftree.cli.chat import _with_adapters
from preftree.cli.chat_lines import ChatLines
from preftree.cli.main import app
from preftree.config.lora import LoraOptions
from preftree.data.rows.conversion import as_kind
from preftree.errors import DataError, UserError
from preftree.generate import chat
from preftree.generate.chat import Answer, Chat, require_text, shuffle_sides
from preftree.generate.hf import Generation
from preftree.models.adapter_folder import write_adapter
from preftree.models.adapters import add_adapter, use_adapter
from preftree.models.load import load_model
from preftree.records import Message, Preference
from support.adapters import moved
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

    monkeypatch.setattr(chat, "generate", said)


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
    first, second, last = (as_kind(record, "pair", chosen_side=False)[0] for record in records)
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


@pytest.mark.parametrize(("text", "said"), [("b\ufffd", "bytes that are not text"), (" ", "is empty")])
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
    said = Chat(True).ask("a").hear("b").ask("c").hear("d")
    assert said.undo() == Chat(True).ask("a").hear("b")
    assert said.undo().undo().undo() == Chat(True)


@pytest.fixture(scope="module")
def adapters(place: Path) -> Path:
    """Two adapters of the model `one`, in a folder that holds nothing else."""
    for seed, name in enumerate(("a", "b")):
        model = load_model(place / "one")
        add_adapter(model, LoraOptions(r=2).filled(), seed=seed)
        moved(model, seed=seed, by=0.2)
        (place / "many" / name).mkdir(parents=True)
        write_adapter(model, str(place / "one"), place / "many" / name)
    return place / "many"


def test_two_adapters_answer_from_one_base(place: Path, adapters: Path) -> None:
    ids = torch.tensor([[5, 9, 3, 7]])
    for model, names in ((adapters, ["a", "b"]), (place / "one", [str(adapters / "a"), str(adapters / "b")])):
        speakers = _with_adapters(Console(), str(model), names)
        assert speakers[0].model is speakers[1].model
        for speaker in (*speakers, *reversed(speakers)):
            assert speaker.adapter is not None
            alone = load_model(adapters / "ab"[speaker.adapter])
            use_adapter(speaker.model, speaker.adapter)
            with torch.no_grad():
                logits = speaker.model(ids).logits
                assert torch.equal(logits, alone(ids).logits)
                assert (logits - load_model(place / "one")(ids).logits).abs().max() > 1e-3


def test_an_adapter_talks_as_its_folder_does(place: Path, adapters: Path) -> None:
    lines = ["the plot", "and?"]
    told = call(lines, adapters / "b")
    assert call(lines, place / "one", "--adapter", adapters / "b") == told != call(lines, place / "one")
    assert call(lines, adapters, "--adapter", "b") == told


@pytest.mark.usefixtures("numbered")
def test_a_choice_between_adapters_is_recorded_by_their_names(place: Path, adapters: Path) -> None:
    record = place / "adapters.jsonl"
    call(["Hi", "2"], adapters, "--adapter", "a", "--adapter", "b", "--record", record)
    call(["Hi", "1"], place / "one", "--adapter", adapters / "a", "--against", place / "two", "--record", record)
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    sides = [(Path(row["chosen_model"]).name, Path(row["rejected_model"]).name) for row in rows]
    assert sides == [("b", "a"), ("a", "two")]


@pytest.mark.parametrize(
    ("model", "words", "sentence"),
    [
        ("many", ["--adapter", "c"], "--adapter c: neither an adapter in .*many', which holds a, b, nor a folder with"),
        ("one", ["--adapter", "c"], "--adapter c: neither an adapter in .*one', which holds none, nor a folder"),
        ("many", ["--adapter", "a", "--adapter", "b", "--against", "x"], "two models can be compared at once"),
        ("many", ["--adapter", "a", "--blind"], "are for two models"),
    ],
)
def test_adapters_that_are_not_there(place: Path, adapters: Path, model: str, words: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["chat", str(place / model), *words])
    assert isinstance(done.exception, UserError) and re.search(sentence, str(done.exception))


@pytest.mark.parametrize("words", [["--blind"], ["--record", "x.jsonl"]])
def test_options_of_two_models_are_refused_with_one(place: Path, words: list[str]) -> None:
    done = CliRunner().invoke(app, ["chat", str(place / "one"), *words])
    assert "are for two models" in str(done.exception)


@pytest.mark.usefixtures("numbered")
def test_an_answer_is_given_again_and_both_may_be_bad(place: Path) -> None:
    prefs = place / "bad.jsonl"
    told = call(
        ["/regenerate", "Hi", "b", "More?", "1", "/regenerate", "2"],
        place / "chat3",
        "--against",
        place / "chat4",
        "--record",
        prefs,
    )
    assert "There is no question yet." in told and "Neither is the answer" in told
    rows = [json.loads(line) for line in prefs.read_text().splitlines()]
    assert [(row.get("tie"), row.get("both_bad")) for row in rows] == [(True, True), (None, None), (None, None)]
    # The question with bad answers is gone, and the repeated one stands alone, with other answers.
    assert [row["prompt"] for row in rows[1:]] == [[{"role": "user", "content": "More?"}]] * 2
    assert rows[1]["chosen"] != rows[2]["rejected"]
    single = call(["Hi", "/regenerate"], place / "chat3")
    assert single.count("model>") == 2


def test_a_model_without_a_template_is_given_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def said(model: Any, tokenizer: Any, ids: Any, sampling: Any, *, first_row: int, show: Any) -> list[Generation]:
        asked.append((tokenizer.decode(ids[0]), sampling.stop))
        return [Generation(" Hello", (5,), 0)]

    monkeypatch.setattr(chat, "generate", said)
    call(["Hi ", "And?"], place / "one", "--template", "hh")
    assert asked[1] == ("\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant:", ("\n\nHuman:",))
    call(["Hi"], place / "one", "--template", "chatml", "--system", "Be kind.")
    assert asked[2] == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ("<|im_end|>",),
    )
    (place / "mine.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    call(["Hi"], place / "one", "--template", place / "mine.jinja")
    assert asked[3] == ("[Hi]", ())
    with pytest.raises(UserError, match="--template is hh, chatml or a file of a Jinja template, got 'hhh'"):
        call(["Hi"], place / "one", "--template", "hhh")
    with pytest.raises(UserError, match="has a chat template of its own"):
        call(["Hi"], place / "chat3", "--template", "hh")


def test_a_terminal_has_history_editing_and_several_lines(tmp_path: Path) -> None:
    """Keys as a terminal sends them: Esc Enter, the left arrow, the up arrow, Ctrl-D."""
    for keys, wanted in (
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("ac\x1b[Db\r", "abc"),
        ("\x1b[A\r", "abc"),
        ("\x04", None),
    ):
        with create_pipe_input() as typed:
            typed.send_text(keys)
            lines = ChatLines(Console(), tmp_path / "kept/history", input=typed, output=DummyOutput())
            assert lines.message("you> ") == wanted
    assert "+one" in (tmp_path / "kept/history").read_text()

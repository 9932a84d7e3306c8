"""Demonstrations before prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.data.prompts import Prompt, encode_prompts, read_demonstrations
from preftree.errors import ConfigError, DataError
from preftree.generate.few_shot import SEPARATOR, STOP, Shot, demonstrations_as_conversation, with_shots
from preftree.models.load import load_tokenizer
from preftree.records import Demonstration, Message, Provenance
from support.small_runs import make_model


def asked(*texts: str) -> list[Prompt]:
    return [Prompt(Provenance("p", line), text) for line, text in enumerate(texts, 1)]


def shown(num: int) -> list[Shot]:
    return [(Provenance("s", line), Demonstration(f"q{line}:", f" a{line}")) for line in range(1, num + 1)]


def test_plain_shots_stand_before_the_prompt_with_the_separator_between() -> None:
    (first, second) = with_shots(asked("x:", "y:"), shown(5), 2, seed=0)
    assert isinstance(first.text, str) and isinstance(second.text, str)
    parts = first.text.split(SEPARATOR)
    assert len(parts) == 3 and parts[2] == "x:"
    assert set(parts[:2]) < {f"q{line}: a{line}" for line in range(1, 6)}
    assert second.text.split(SEPARATOR) == [*parts[:2], "y:"]
    assert with_shots(asked("x:"), shown(5), 2, seed=0)[0] == first
    assert len({with_shots(asked("x:"), shown(5), 2, seed=seed)[0].text for seed in range(20)}) > 5
    assert SEPARATOR.startswith(STOP)


def test_a_prompt_is_not_shown_its_own_answer() -> None:
    for seed in range(10):
        (made,) = with_shots(asked("q2:"), shown(3), 2, seed=seed)
        assert isinstance(made.text, str) and "a2" not in made.text
        assert made.text.endswith(f"{SEPARATOR}q2:") and made.text.count(SEPARATOR) == 2
    with pytest.raises(ConfigError, match="asks for 3 demonstrations, and there are 2 of prompts other"):
        with_shots(asked("q2:"), shown(3), 3, seed=0)


def test_a_prompt_with_several_answers_is_one_shot() -> None:
    with pytest.raises(ConfigError, match="there are 2"):
        with_shots(asked("x:"), [*shown(2), *shown(2)], 3, seed=0)


def test_conversations_are_shown_as_turns() -> None:
    system, user = Message("system", "be brief"), Message("user", "x:")
    prompts = [Prompt(Provenance("p", 1), (system, user))]
    (made,) = with_shots(prompts, demonstrations_as_conversation(shown(2)), 2, seed=0)
    assert made.text[0] == system and made.text[-1] == user
    roles = [turn.role for turn in made.text if isinstance(turn, Message)]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    own = [(Provenance("s", 1), Demonstration((system, Message("user", "q")), (Message("assistant", "a"),)))]
    (made,) = with_shots(prompts, own, 1, seed=0)
    assert made.text == (system, Message("user", "q"), Message("assistant", "a"), user)
    bare = [Prompt(Provenance("p", 1), (user,))]
    with pytest.raises(DataError, match="s:1 has a system message that the prompts do not have"):
        with_shots(bare, own, 1, seed=0)
    with pytest.raises(DataError, match="s:2 is plain text and the prompt of p:1 is a conversation"):
        with_shots(bare, shown(2)[1:], 1, seed=0)


def test_a_shot_that_holds_the_separator_is_refused() -> None:
    shots = [(Provenance("s", 7), Demonstration("q", f"a{SEPARATOR}b"))]
    with pytest.raises(DataError, match=r"s:7 holds .*, the separator of demonstrations"):
        with_shots(asked("x"), shots, 1, seed=0)


def test_the_command_asks_with_shots_and_tells_the_prompt_alone(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    rows = [{"prompt": f"q{n}: ", "chosen": f"yes {n}", "rejected": "no"} for n in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["generate", str(tmp_path / "model"), str(tmp_path / "pairs.jsonl"), str(tmp_path / "out.jsonl")]
    words += ["--max-new-tokens", "6", "--shots", str(tmp_path / "pairs.jsonl"), "--num-shots", "3"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    got = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in got] == [row["prompt"] for row in rows]
    job = json.loads((tmp_path / "out.jsonl.job").read_text())
    assert job["stop"] == [STOP]
    # By hand: the same ids sampled without the option.
    shots = read_demonstrations(str(tmp_path / "pairs.jsonl"))
    assert [shot.response for _, shot in shots] == [f"yes {n}" for n in range(4)]
    made = with_shots(asked(*(str(row["prompt"]) for row in rows)), shots, 3, seed=0)
    (tmp_path / "long.jsonl").write_text("".join(json.dumps({"prompt": one.text}) + "\n" for one in made))
    assert len(encode_prompts(load_tokenizer(tmp_path / "model"), made)[0]) > 20
    words = [*words[:2], str(tmp_path / "long.jsonl"), str(tmp_path / "long_out.jsonl"), *words[4:6], "--stop", STOP]
    CliRunner().invoke(app, words, catch_exceptions=False)
    again = [json.loads(line) for line in (tmp_path / "long_out.jsonl").read_text().splitlines()]
    assert [row["response"] for row in again] == [row["response"] for row in got]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--num-shots", "3"), "--num-shots counts only with --shots; leave it out"),
        (
            ("--temperature", "0", "--seed", "1"),
            "--seed counts only with a temperature above 0, or --shots; leave it out",
        ),
        (("--temperature", "0", "--top-p", ".5"), "--top-p counts only with a temperature above 0; leave it out"),
    ],
)
def test_the_command_refuses_what_it_does_not_read(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(app, ["generate", "model", "prompts", "out", *words], catch_exceptions=False)
    assert str(caught.value) == sentence

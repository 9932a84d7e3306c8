"""The verbs of `collect` from the command line: new, label, adjudicate, invite, sample, and chats that are recorded."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.collect.read import read_ballots
from preftree.collect.schema import connect
from preftree.collect.store import own_project
from preftree.collect.web.identity import is_password
from preftree.errors import DataError, UserError
from preftree.models.write_folder import save_new
from preftree.worlds.sentiment import build_model, build_tokenizer
from support.collect import make_numbered, rows, with_settings


def call(*words: object, lines: str = "") -> str:
    done = CliRunner().invoke(app, ["collect", *map(str, words)], input=lines, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def make_models(folder: Path) -> None:
    """Two small models of twelve words."""
    tokenizer = build_tokenizer()
    for seed, name in enumerate(("one", "two")):
        save_new(build_model(tokenizer, seed), tokenizer, folder / name)


def write(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_new_of_responses_pairs_each_two_of_a_prompt_and_prints_the_password_once(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", *({"prompt": f"p{n}", "response": f"a{n}", "slice": "s"} for n in range(5)))
    two = write(tmp_path / "two.jsonl", *({"prompt": f"p{n}", "response": f"b{n}"} for n in range(4)))
    gold = write(tmp_path / "gold.jsonl", {"prompt": "p0", "chosen": "a0", "rejected": "b0"})
    path = tmp_path / "P.db"
    said = call("new", path, "--responses", one, "--responses", two, "--gold", gold, "--overlap", 2)
    assert "5 prompts, 9 responses, 4 pairs, 1 of them with a known answer" in said
    password = said.partition("shown this once: ")[2].split()[0]
    (hashed,) = rows(path, "SELECT value FROM setting WHERE name = 'password'")[0]
    assert is_password(password, json.loads(hashed)) and password.encode() not in path.read_bytes()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert rows(path, "SELECT DISTINCT source FROM response ORDER BY 1") == [("one",), ("two",)]
    assert rows(path, "SELECT count(*) FROM item WHERE slice = 's'") == [(5,)]
    with pytest.raises(DataError, match="exists and is not replaced"):
        call("new", path, "--responses", one, "--responses", two)


def test_new_of_pairs_keeps_conversations_and_refuses_rows_that_cannot_be_compared(tmp_path: Path) -> None:
    good = [
        {
            "prompt": [{"role": "user", "content": f"q{n}"}],
            "chosen": [{"role": "assistant", "content": f"yes {n}"}],
            "rejected": [{"role": "assistant", "content": f"no {n}"}],
        }
        for n in range(40)
    ]
    path = tmp_path / "P.db"
    said = call("new", path, "--pairs", write(tmp_path / "pairs.jsonl", *good, {**good[0], "chosen": []}))
    assert "1 of 41 rows are left out" in said and "40 pairs" in said
    prompt = json.loads(rows(path, "SELECT prompt FROM item WHERE id = 1")[0][0])
    assert prompt == {"prompt": [{"role": "user", "content": "q0"}]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "begins with --prompts"),
        (("--responses", "none.jsonl"), "none.jsonl"),
        (("--prompts", "none.txt"), "none.txt does not exist"),
        (("--responses", "one.jsonl"), "no prompt has two different responses"),
        (("--responses", "bad.jsonl"), "bad.jsonl"),
        (("--responses", "one.jsonl", "--guidelines", "none.md"), "none.md cannot be read"),
        (("--responses", "one.jsonl", "--password-file", "short"), "at least 8"),
        (("--pairs", "one.jsonl"), "one.jsonl"),
        (("--responses", "one.jsonl", "--model", "m"), "--prompts"),
    ],
)
def test_new_says_what_is_wrong_and_leaves_no_file(tmp_path: Path, monkeypatch, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "one.jsonl", {"prompt": "p", "response": "a"})
    write(tmp_path / "bad.jsonl", {"prompt": "p", "response": 3})
    (tmp_path / "short").write_text("short\n")
    with pytest.raises(UserError, match=message):
        call("new", "P.db", *words)
    assert not Path("P.db").exists()


def test_label_writes_the_rows_that_the_page_writes(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 8, with_settings(strength=True))
    said = call("label", path, "--as", "Ada", lines="1\n24\nu\n0\nx\n\n7\ns\nf\n?\nq\n")
    assert "2 by you, 2 of 8 in all" in said and "1 or 2: that one is better" in said
    found = rows(path, "SELECT kind, strength, turn FROM vote ORDER BY id")
    assert found == [
        ("vote", None, 0), ("vote", 4, 0), ("undo", None, 1), ("vote", None, 2), ("vote", None, 0), ("skip", None, 0),
        ("flag", None, 0),
    ]  # fmt: skip
    project = connect(path, write=False)
    ballots = list(read_ballots(project))
    project.close()
    assert [ballot.side for ballot in ballots[:3]] == ["left", "tie", "bad"]
    shown = {f"{side} {ballot.pair - 1}" for ballot in ballots for side in ("first", "second")}
    assert all(text in said for text in shown)
    assert "Nothing is left" in call("label", path, "--as", "Ada", lines="1\n" * 9)


def test_label_is_refused_while_the_project_is_served(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 3, with_settings())
    with own_project(path), pytest.raises(DataError, match="another process"):
        call("label", path)


def test_invite_prints_a_link_also_while_the_project_is_served(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 3, with_settings())
    with own_project(path):
        link = call("invite", path, "Ada", "--url", "https://votes.example.org/").strip()
    assert link.startswith("https://votes.example.org/join/")
    assert rows(path, "SELECT name FROM annotator") == [("Ada",)]


def test_a_decision_becomes_the_known_answer(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 4, with_settings(overlap=2))
    assert "No pair is in doubt" in call("adjudicate", path)
    call("label", path, "--as", "Ada", lines="1\n" * 4)
    call("label", path, "--as", "Grace", lines="2\n" * 4)
    said = call("adjudicate", path, lines="1\ns\nx\nq\n")
    assert "2 pairs have a known answer now" in said
    golds = [gold for (gold,) in rows(path, "SELECT gold FROM pair WHERE gold IS NOT NULL")]
    assert len(golds) == 2 and "bad" in golds and set(golds) <= {"first", "second", "bad"}
    first = said.partition("most doubtful first.")[2]
    left = "first" if first.index("first ") < first.index("second ") else "second"
    assert left in golds
    assert "2 pairs have two votes" in call("adjudicate", path, lines="q\n")


def test_models_are_sampled_and_their_answers_are_paired(tmp_path: Path) -> None:
    make_models(tmp_path)
    (tmp_path / "prompts.txt").write_text("the film was\nthe plot was\nfilm\n")
    path = tmp_path / "P.db"
    said = call("new", path, "--prompts", tmp_path / "prompts.txt")
    assert "3 prompts, 0 responses, 0 pairs" in said and "Next: preftree collect sample" in said
    call("sample", path, tmp_path / "one", tmp_path / "two", "--samples", 2, "--max-new-tokens", 6, "--seed", 5)
    found = rows(path, "SELECT source, seed, length(digest) FROM response")
    assert {source for source, *_ in found} == {"one", "two"} and {row[1:] for row in found} == {(5, 64)}
    count = dict(rows(path, "SELECT item, count(*) FROM response GROUP BY item"))
    pairs = dict(rows(path, "SELECT item, count(*) FROM pair GROUP BY item"))
    assert pairs == {item: n * (n - 1) // 2 for item, n in count.items()} and sum(count.values()) > 6


def test_a_chat_is_recorded_in_a_project(tmp_path: Path) -> None:
    make_models(tmp_path)
    path = make_numbered(tmp_path / "P.db", 2, with_settings())
    command = ["chat", str(tmp_path / "one"), "--against", str(tmp_path / "two"), "--max-new-tokens", "6"]
    lines = "the film was\n2\nthe plot was\nt\nfilm\ns\n"
    done = CliRunner().invoke(app, [*command, "--record", str(path), "--blind"], input=lines, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    project = connect(path, write=False)
    ballots = list(read_ballots(project))
    project.close()
    assert [(ballot.side, ballot.picked_by, ballot.slice) for ballot in ballots] == [
        ("right", "chat", "chat"),
        ("tie", "chat", "chat"),
    ]
    who = done.output.partition("1 was ")[2].partition(".")[0]
    better = rows(path, "SELECT r.source FROM pair p JOIN response r ON r.id = p.second WHERE p.picked_by = 'chat'")[0][
        0
    ]
    assert f"2 was {better}" in who and ballots[0].choice == "second"
    assert rows(path, "SELECT votes FROM pair WHERE picked_by = 'chat'") == [(1,), (1,)]

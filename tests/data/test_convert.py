"""Any format into the project's own rows, and back to the same records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftree.data.formats import FORMATS
from preftree.data.rows.conversion import as_kind
from preftree.data.tools.convert import convert_file
from preftree.errors import DataError
from preftree.records import Demonstration, Label, Message, Preference, Ranking
from support.datafiles import EXAMPLES, example_rows, one_fault, read_all, said, write_rows


@pytest.mark.parametrize("name", FORMATS)
def test_a_converted_file_says_the_same(name: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", example_rows(name))
    out = tmp_path / "out.jsonl"
    tally, written = convert_file(path, out)
    assert (tally.accepted, written) == (1, 1)
    assert read_all(str(out))[0] == read_all(path)[0]
    again = tmp_path / "again.jsonl"
    convert_file(str(out), again)
    assert again.read_bytes() == out.read_bytes()


def test_weights_margins_ties_and_train_flags_survive(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "é\u2028x", "rejected": "b", "weight": 0.1, "margin": 1e-9},
        {"prompt": "q", "chosen": "a", "rejected": "b", "tie": True},
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    convert_file(path, tmp_path / "out.jsonl")
    assert read_all(str(tmp_path / "out.jsonl"))[0] == [
        Preference("p", "é\u2028x", "b", weight=0.1, figures={"margin": (1e-9,)}),
        Preference("q", "a", "b", tie=True),
    ]
    turns = [said("user", "a"), said("assistant", "b", train=True), said("user", "c"), said("assistant", "d")]
    path = write_rows(tmp_path / "chat.jsonl", [{"messages": turns}])
    convert_file(path, tmp_path / "chat-out.jsonl")
    (record,) = read_all(str(tmp_path / "chat-out.jsonl"))[0]
    assert record.prompt[1] == Message("assistant", "b", True)


def test_a_ranking_as_pairs_and_as_its_best(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES["ranking"]])
    out = tmp_path / "out.jsonl"
    assert convert_file(path, out, kind="pair")[1] == 3
    assert read_all(str(out))[0] == [
        Preference("Count:", " 1 2 3", " 1 3 2", figures={"margin": (1.0,), "scores": (2.0, 1.0)}),
        Preference("Count:", " 1 2 3", " x", figures={"margin": (3.0,), "scores": (2.0, -1.0)}),
        Preference("Count:", " 1 3 2", " x", figures={"margin": (2.0,), "scores": (1.0, -1.0)}),
    ]
    best = tmp_path / "best.jsonl"
    convert_file(path, best, kind="demonstration", chosen_side=True)
    assert read_all(str(best))[0] == [Demonstration("Count:", " 1 2 3")]
    assert as_kind(Ranking("p", ("a", "b")), "pair", chosen_side=False) == [Preference("p", "a", "b")]


def test_a_pair_as_two_labels_and_as_a_ranking(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "weight": 2.0, "score_chosen": 4, "score_rejected": 1}
    tie = {"prompt": "q", "chosen": "a", "rejected": "b", "tie": True}
    path, out = write_rows(tmp_path / "rows.jsonl", [row, tie]), tmp_path / "out.jsonl"
    assert convert_file(path, out, kind="response")[1] == 2
    assert read_all(str(out))[0] == [Label("p", "a", True, 2.0), Label("p", "b", False, 2.0)]
    ranking = tmp_path / "ranking.jsonl"
    assert convert_file(path, ranking, kind="list")[1] == 1
    assert read_all(str(ranking))[0] == [Ranking("p", ("a", "b"), 2.0, {"scores": (4.0, 1.0)})]


def test_what_a_pair_carries_is_kept(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "win_prob": 0.75, "cost_chosen": 1, "cost_rejected": -2.5}
    more = {"score_chosen": 3, "score_rejected": 1, "other_margin": -1.5}
    path = write_rows(tmp_path / "rows.jsonl", [row | more])
    out = tmp_path / "o.jsonl"
    convert_file(path, out)
    for found in (read_all(path)[0], read_all(str(out))[0]):
        assert found == [
            Preference(
                "p",
                "a",
                "b",
                figures={
                    "margin": (2.0,),
                    "win_prob": (0.75,),
                    "scores": (3.0, 1.0),
                    "costs": (1.0, -2.5),
                    "other_margin": (-1.5,),
                },
            )
        ]
    wrong = write_rows(tmp_path / "x.jsonl", [row | {"win_prob": 1.5}])
    assert one_fault(wrong).message == "'win_prob' must be in [0, 1], got 1.5"


@pytest.mark.parametrize(
    ("name", "kind", "side", "sentence"),
    [
        ("hh", "demonstration", False, "side=chosen"),
        ("text", "pair", False, "wanted the kind 'pair'"),
        ("unpaired", "pair", False, "wanted the kind 'pair'"),
        ("unpaired", "demonstration", True, "has no chosen side"),
        ("messages", "demonstration", True, "has no chosen side"),
        ("hh", "pair", True, "leave 'side' out"),
        ("unpaired", "list", False, "wanted the kind 'list'"),
    ],
)
def test_a_kind_that_a_file_cannot_give_is_refused(
    name: str, kind: str, side: bool, sentence: str, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES[name]])
    with pytest.raises(DataError, match=sentence):
        convert_file(path, tmp_path / "out.jsonl", kind=kind, chosen_side=side)  # pyright: ignore[reportArgumentType] - parametrised
    assert not (tmp_path / "out.jsonl").exists()


def test_nothing_is_written_where_too_much_is_rejected(tmp_path: Path) -> None:
    good = [{"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(19)]
    bad = {"prompt": "x", "chosen": "", "rejected": "b"}
    path = write_rows(tmp_path / "rows.jsonl", [*good, bad])
    out = tmp_path / "out.jsonl"
    assert convert_file(path, out)[1] == 19  # 5.0% is still allowed
    out.unlink()
    path = write_rows(tmp_path / "rows.jsonl", [*good[1:], bad])
    with pytest.raises(
        DataError, match=r"1 of 19 rows rejected, wanted at most 5.0% \(empty_response 1; first: .*:19: "
    ):
        convert_file(path, out)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    assert convert_file(path, out, max_rejected_share=0.06)[1] == 18
    out.unlink()
    path = write_rows(tmp_path / "rows.jsonl", [bad])
    with pytest.raises(DataError, match="1 of 1 rows rejected"):  # a share of 1 still leaves nothing to write
        convert_file(path, out, max_rejected_share=1.0)


def test_the_input_and_strange_names_are_not_written_to(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [EXAMPLES["hh"]])
    for out, sentence in (
        (tmp_path / "." / "rows.jsonl", "is the input"),
        (tmp_path / "out.csv", r"must end in \.jsonl"),
        (tmp_path / "none" / "out.jsonl", "does not exist"),
    ):
        with pytest.raises(DataError, match=sentence):
            convert_file(path, out)
    assert [json.loads(line) for line in Path(path).read_text().splitlines()] == [EXAMPLES["hh"]]


def test_single_turns_and_some_rows(tmp_path: Path) -> None:
    one = {"chosen": "\n\nHuman: A?\n\nAssistant: b", "rejected": "\n\nHuman: A?\n\nAssistant: c"}
    turns = [said("user", "a"), said("assistant", "b"), said("user", "c")]
    chat = {"prompt": turns, "chosen": [said("assistant", "d")], "rejected": [said("assistant", "e")]}
    plain = write_rows(tmp_path / "hh.jsonl", [EXAMPLES["hh"], one])
    tally, written = convert_file(plain, tmp_path / "out.jsonl", max_turns=1)
    assert (written, dict(tally.actions)) == (1, {"longer_dialogue": 1})
    assert read_all(str(tmp_path / "out.jsonl"))[0] == [Preference("\n\nHuman: A?\n\nAssistant:", " b", " c")]
    conversations = write_rows(tmp_path / "chat.jsonl", [chat, chat | {"prompt": turns[:1]}])
    written = [convert_file(conversations, tmp_path / f"{most}.jsonl", max_turns=most)[1] for most in (1, 2)]
    assert written == [1, 2]
    many = write_rows(tmp_path / "many.jsonl", [{"prompt": f"{row}\u2028", "completion": "a"} for row in range(50)])
    convert_file(many, tmp_path / "seven.jsonl", num_rows=7)
    first = read_all(str(tmp_path / "seven.jsonl"))[0]
    assert len(first) == 7 and [record.prompt for record in read_all(many)[0] if record in first] == [
        record.prompt for record in first
    ]
    assert convert_file(many, tmp_path / "other.jsonl", num_rows=7, seed=1)[1] == 7
    assert read_all(str(tmp_path / "other.jsonl"))[0] != first

"""Figures of judges: by hand, against RewardBench 2's score re-created, and scripted judges whose likings are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import DataError
from preftree.evaluate.judging.accuracy import compare_judges
from preftree.evaluate.judging.benchmark_scores import AnswerScores, best_of, ties_score
from preftree.evaluate.judging.labelled import LabelledItem, read_items
from preftree.judges.pairwise import Judge, judge_by_rewards
from preftree.records import Verdict
from preftree.stats.intervals import wilson
from support.scripted_judges import plain_items, scripted_judge


def item_line(item: LabelledItem) -> str:
    """The item as RewardBench 2 writes it."""
    row = {
        "prompt": item.prompt,
        "chosen": list(item.right),
        "rejected": list(item.wrong),
        "subset": item.subset,
        "id": item.name,
        "num_correct": len(item.right),
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def described_ties(rows: list[dict[str, Any]]) -> float:
    """The ties score, written down from its description: rows with id, scores and num_correct."""
    spread: dict[str, float] = {}
    gaps: dict[str, dict[str, float]] = {"ref": {}, "tied": {}}
    for row in rows:
        kind, name = row["id"].split(":")
        good, bad = row["scores"][: row["num_correct"]], row["scores"][row["num_correct"] :]
        gaps[kind][name] = min(good) - max(bad)
        if kind == "tied":
            spread[name] = max(good) - min(good)
    parts = [0.3 * sum(gap > 0 for gap in some.values()) / len(some) for some in gaps.values()]
    shared = [name for name in gaps["ref"] if name in gaps["tied"]]
    for name in shared:
        own, both = gaps["tied"][name], min(gaps["tied"][name], gaps["ref"][name])
        if spread[name] == 0:
            extra = 0.0 if both == 0 else np.sign(both)
        else:
            extra = np.tanh(both / spread[name] - 1)
        parts.append((0.2 * (own > spread[name]) + 0.2 * (both > spread[name]) + 0.01 * extra) / len(shared))
    return float(sum(parts))


@pytest.mark.parametrize("whole", [False, True])
def test_the_ties_score_is_rewardbenchs(whole: bool) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = []
        for number in range(12):
            for kind, correct in (("ref", 1), ("tied", int(rng.integers(2, 5)))):
                scores = rng.normal(size=correct + 3) + np.where(np.arange(correct + 3) < correct, 1.5, 0)
                rows.append(
                    {
                        "id": f"{kind}:{number}",
                        "num_correct": correct,
                        "scores": (np.round(scores) if whole else scores).tolist(),
                    }
                )
        rows.pop(0)  # a prompt with several right answers alone counts in its accuracy
        groups: dict[str, dict[str, Any]] = {"ref": {}, "tied": {}}
        for row in rows:
            kind, name = row["id"].split(":")
            scores = np.array(row["scores"])
            groups[kind][name] = AnswerScores(scores[: row["num_correct"]], scores[row["num_correct"] :])
        assert ties_score(groups["ref"], groups["tied"]) == pytest.approx(described_ties(rows), abs=1e-12)
    with pytest.raises(ValueError, match="of one name"):
        ties_score({}, groups["tied"])


def test_the_best_of_four_shares_a_first_place() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.integers(0, 4, 4)
        first = np.flatnonzero(scores == scores.max())
        expected = 1 / len(first) if 0 in first else 0.0
        values = (1 + np.sign(scores[0] - scores[1:])) / 2
        assert best_of(values) == pytest.approx(expected, abs=1e-15)


def test_figures_by_hand() -> None:
    """Two prompts whose right answer is longer, one where it is shorter, one tie of equal length."""
    items = [
        LabelledItem("p", ("xxxx",), ("x",), "s"),
        LabelledItem("q", ("xxxx",), ("x", "xxx", "xx"), "s"),
        LabelledItem("r", ("x",), ("xxxx",), "t"),
        LabelledItem("t", ("yy",), ("xx",), "t"),
        LabelledItem("u", (), ("aa", "bb")),
    ]
    longer = judge_by_rewards(lambda prompts, texts: np.array([float(len(text)) for text in texts]), "longer")
    (found,) = compare_judges([longer], ["longer"], items, "here").judges
    assert found.accuracy.value == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert found.accuracy == pytest.approx(wilson(2.5, 4), abs=0.2)
    assert found.both_right.value == pytest.approx(0.5)
    assert (found.best_of_items, found.unknown, found.orders, found.ties_called) == (1, 0, 1, 1.0)
    assert found.best_of is not None and found.best_of.value == 1
    assert {name: part.accuracy.value for name, part in found.subsets.items()} == {"s": 1, "t": 0.25}
    assert {name: part.pairs for name, part in found.lengths.items()} == {
        "right one less than half as long": 1,
        "of similar length": 1,
        "right one longer": 2,
        "right one more than twice as long": 2,
    }
    assert found.unbiased.reason and found.left_rate is None and found.with_people is None


def test_a_judge_of_the_left_is_right_in_no_order() -> None:
    items = plain_items(0, 40)
    left = Judge("left", lambda asked: [Verdict("left")] * len(asked))
    mute = Judge("mute", lambda asked: [Verdict("failed")] * len(asked))
    compared = compare_judges([left, mute], ["left", "mute"], items, "here")
    found, silent = compared.judges
    assert found.left_rate is not None and silent.left_rate is None
    assert (found.accuracy.value, found.both_right.value, found.left_rate.value) == (0.5, 0, 1)
    assert (silent.accuracy.value, silent.unknown) == (0.5, 80)
    assert compared.differences["mute"] == pytest.approx((0, 0, 0))


@pytest.mark.parametrize(("seeds", "fewest"), [(4, 3), pytest.param(20, 17, marks=pytest.mark.slow)])
def test_known_likings_are_covered(seeds: int, fewest: int) -> None:
    """Accuracy .8, .7 for the left answer, 1 for a much longer one: of 60 intervals of 95 %, 3 may miss by chance."""
    held, values = np.zeros((seeds, 3), bool), np.zeros((seeds, 3))
    truth = np.array([0.8, 0.7, 1.0])
    for seed in range(seeds):
        items = plain_items(seed)
        judge = scripted_judge(items, 0.8, left=0.7, length=1.0, seed=1000 + seed)
        (found,) = compare_judges([judge], ["judge"], items, "here").judges
        rate, length, left, _ = found.unbiased
        assert rate is not None and length is not None and left is not None
        for column, estimate in enumerate((rate, left, length)):
            values[seed, column] = estimate.value
            held[seed, column] = estimate.low <= truth[column] <= estimate.high
        assert found.left_rate is not None and found.left_rate.low > 0.5
        assert found.both_right.value < found.accuracy.value < 0.8 + 0.05
    print(f"held of {seeds}:", held.sum(0), "means", values.mean(0).round(3))
    assert (held.sum(0) >= fewest).all()
    assert (np.abs(values.mean(0) - truth) < np.array([0.03, 0.15, 0.3])).all()


def test_judges_are_compared_on_the_same_pairs() -> None:
    items = plain_items(0)
    judges = [scripted_judge(items, share, left=0, length=0, seed=1) for share in (0.85, 0.7)]
    compared = compare_judges(judges, ["good", "poor"], items, "here")
    values = [one.accuracy.value for one in compared.judges]
    gap = compared.differences["poor"]
    assert gap.value == pytest.approx(values[0] - values[1]) and gap.low > 0
    assert gap.low < 0.15 < gap.high
    # Right in both orders .7225, wrong in both .0225: then it says .85 and is right in .97; else .5 and in half.
    calibrated = compared.judges[0].calibration
    assert calibrated is not None and calibrated.error == pytest.approx(0.745 * 0.12, abs=0.04)


def test_people_stand_beside_the_judge(tmp_path: Path) -> None:
    """Two people agree in half of the pairs; the judge is on the side of both, or of one of them."""
    rows = [
        {
            "prompt": f"p{number}",
            "chosen": "long answer",
            "rejected": "short",
            "tie": False,
            "win_prob": 0.8,
            "votes": [
                {"by": "a", "choice": "chosen", "repeat_of": None},
                {"by": "b", "choice": "chosen" if number % 2 else "rejected", "repeat_of": None},
                {"by": "b", "choice": "rejected", "repeat_of": 1},
            ],
            "slice": "odd" if number % 2 else "even",
        }
        for number in range(20)
    ]
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = read_items(str(path))
    assert (len(items), items[0].votes[1].value, items[1].subset) == (20, 0.0, "odd")
    longer = judge_by_rewards(lambda prompts, texts: np.array([float(len(text)) for text in texts]), "longer")
    compared = compare_judges([longer], ["longer"], items, "here")
    assert compared.people is not None and compared.people.value == pytest.approx(0.5)
    (found,) = compared.judges
    assert found.with_people is not None and found.with_people.value == pytest.approx(0.75)
    assert compared.weighed.keys() == {"longer", "a", "b"}
    assert compared.weighed["longer"].value > compared.weighed["b"].value  # the judge is with a, who is never alone


def test_other_files_are_read_as_pairs(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        '{"prompt": "p", "chosen": "a", "rejected": "b"}\n'
        '{"prompt": "q", "chosen": "c", "rejected": "d", "tie": true}\n'
    )
    items = read_items(str(tmp_path / "pairs.jsonl"))
    assert [(one.right, one.wrong, one.is_tie) for one in items] == [(("a",), ("b",), False), ((), ("c", "d"), True)]
    (tmp_path / "ranks.jsonl").write_text('{"prompt": "p", "responses": ["a", "b", "c"]}\n')
    ranked = read_items(str(tmp_path / "ranks.jsonl"))
    assert [one.right + one.wrong for one in ranked] == [("a", "b"), ("a", "c"), ("b", "c")]
    item = LabelledItem("p", ("r", "s"), ("w",), "sub", "tied:1")
    (tmp_path / "lists.jsonl").write_text(item_line(item) * 2)
    assert read_items(str(tmp_path / "lists.jsonl")) == [item, item]
    (tmp_path / "odd.jsonl").write_text(item_line(item) + '{"prompt": "p", "chosen": ["a"], "rejected": []}\n')
    with pytest.raises(DataError, match=r"odd.jsonl:2: 'chosen' and 'rejected' must be lists of texts"):
        read_items(str(tmp_path / "odd.jsonl"))
    with pytest.raises(DataError, match="1 prompts with a right and a wrong answer"):
        compare_judges([Judge("x", lambda asked: [Verdict("left")] * len(asked))], ["x"], [item], "f")


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("def longer(prompt, response):\n    return len(response)\n")
    judge = str(tmp_path / "rules.py:longer")
    out = tmp_path / "out"
    words = ["eval", "judges", judge, judge, "--out", str(out)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    figures = json.loads((out / "judges.json").read_text())
    assert (figures["items"], len(figures["judges"])) == (420, 2)
    first = figures["judges"][0]
    assert first["accuracy"]["value"] == pytest.approx(0.5, abs=0.06)
    assert first["unbiased"]["length"]["low"] > 2
    assert first["ties_score"] is not None and first["best_of_items"] == 148
    assert list(figures["differences"].values()) == [{"value": 0, "low": 0, "high": 0}]
    assert "score of ties" in done.output

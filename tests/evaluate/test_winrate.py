"""Win rates against closed forms and slow loops, and the command that prints them."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.data.rows.faults import Tally
from preftree.data.sources.reader import find_format, find_source, read_records
from preftree.errors import UserError
from preftree.evaluate.answers import Answers, find_sides
from preftree.evaluate.winrate import Pair, count_wins, judge_pairs, preference_rows
from preftree.judges.pairwise import Judge, ask, judge_by_rewards, turn
from preftree.judges.rewards import load_rewards
from preftree.records import Comparison, Message, Preference, Record, Text, Verdict, VerdictChoice
from preftree.stats.intervals import wilson
from preftree.worlds.grammar import reward
from preftree.worlds.sentiment import WORLDS, build_model, build_tokenizer
from support.rewards import reward_model
from support.small_runs import make_model
from support.tokenizers import plain_tokenizer

TINY = WORLDS["tiny"]


def by_length(prompts: Sequence[Text], responses: Sequence[str]) -> np.ndarray:
    return np.array([float(len(one)) for one in responses])


LONGER = judge_by_rewards(by_length, "longer")
LEFT = Judge("left", lambda asked: [Verdict("left")] * len(asked))


def answers(name: str, *texts: str) -> Answers:
    """One side; the samples of a prompt are written with bars between them."""
    return Answers(name, tuple(tuple(one.split("|")) for one in texts))


def test_figures_by_hand() -> None:
    prompts = ("p", "q", "r")
    a = answers("a", "xxxx|x", "xx|xx", "xxx|x")
    b = answers("b", "xx|xx", "yy|x", "x|xxxxxxxx")
    pairs = judge_pairs(LONGER, prompts, a, b)
    assert [one.value for one in pairs] == [1, 0, 0.5, 1, 1, 0]
    found = count_wins(LONGER, a, b, pairs)
    assert found.rate.value == pytest.approx((0.5 + 0.75 + 0.5) / 3)
    assert (found.wins, found.ties, found.losses, found.pairs, found.prompts) == (3, 1, 2, 6, 3)
    assert (found.orders, found.identical, found.agreement, found.left_rate) == (1, 0, None, None)
    assert found.verdicts == {"decided": 5, "tie": 1, "invalid": 0, "failed": 0}
    assert found.rate_low == found.rate_high == pytest.approx(found.rate.value)
    assert (found.characters_a, found.characters_b) == (13 / 6, 16 / 6)
    assert (found.similar, found.similar_pairs) == (None, 1)


def test_fewer_samples_start_again() -> None:
    pairs = judge_pairs(LONGER, ("p", "q"), answers("a", "x|xx|xxx", "x"), answers("b", "xx", "x|xx"))
    assert [(one.row, one.left, one.right) for one in pairs] == [
        (0, "x", "xx"),
        (0, "xx", "xx"),
        (0, "xxx", "xx"),
        (1, "x", "x"),
        (1, "x", "xx"),
    ]
    assert [one.value for one in pairs] == [0, 0.5, 1, 0.5, 0]


def test_a_judge_of_the_left_gives_one_half_after_both_orders() -> None:
    a, b = answers("a", *["good"] * 20), answers("b", *["bad"] * 20)
    pairs = judge_pairs(LEFT, ["p"] * 20, a, b)
    found = count_wins(LEFT, a, b, pairs)
    assert found.rate.value == 0.5
    assert (found.orders, found.agreement, found.left_rate, found.ties) == (2, 0, 1, 20)
    assert "gave 20 to the side" in found.refused[0]
    assert found.as_json()["rate"] is None and found.as_json()["refused"] == found.refused


def test_both_orders_average_a_bias_away() -> None:
    """A judge that sees the longer text at times, and else takes the left one: the first is what is left of it."""

    def decide(asked: Sequence[Comparison]) -> list[Verdict]:
        return [Verdict("right" if len(one.right) > len(one.left) + 1 else "left") for one in asked]

    judge = Judge("biased", decide)
    a, b = answers("a", "xxxx", "xx", "x", "xxx"), answers("b", "x", "x", "xxxx", "xx")
    pairs = judge_pairs(judge, "pqrs", a, b)
    assert [one.value for one in pairs] == [1, 0.5, 0, 0.5]
    found = count_wins(judge, a, b, pairs)
    assert found.rate.value == 0.5
    assert (found.agreement, found.left_rate) == (0.5, 0.75)


def test_a_pair_that_comes_the_other_way_round_is_asked_about_once() -> None:
    seen: list[Comparison] = []

    def decide(asked: Sequence[Comparison]) -> list[Verdict]:
        seen.extend(asked)
        return [Verdict("left" if one.left == "x" else "tie") for one in asked]

    pairs = judge_pairs(Judge("j", decide), ["p"], answers("a", "x|y|x|z"), answers("b", "y|x|y|z"))
    assert [(one.left, one.right) for one in seen] == [("x", "y"), ("y", "x")]
    assert [one.value for one in pairs] == [0.75, 0.25, 0.75, 0.5]
    # What stood on the left when it was asked first: x in the first pair, and y, which was first the second time.
    assert [[v.choice for v in one.verdicts] for one in pairs] == [
        ["left", "tie"],
        ["tie", "right"],
        ["left", "tie"],
        [],
    ]


def test_verdicts_that_could_not_be_read_are_counted_and_bounded() -> None:
    """Four prompts, eight verdicts: one pair half known, one unknown, two known; the bounds by hand."""
    said: list[VerdictChoice] = ["left", "tie", "invalid", "left", "right", "right", "failed", "right"]
    judge = Judge("mute", lambda asked: [Verdict(said.pop(0), reason="cut") for _ in asked])
    a, b = answers("a", "x", "y", "v", "w"), answers("b", "z", "z", "z", "z")
    found = count_wins(judge, a, b, judge_pairs(judge, "pqrs", a, b))
    # Straight left tie invalid left; swapped, in terms of the first sides: left left failed left.
    assert found.rate.value == pytest.approx((1 + 0.75 + 0.5 + 1) / 4)
    assert (found.rate_low, found.rate_high) == (pytest.approx(2.75 / 4), pytest.approx(3.75 / 4))
    assert found.verdicts == {"decided": 5, "tie": 1, "invalid": 1, "failed": 1}
    assert found.unread == {"cut": 2}
    assert found.agreement == pytest.approx(2 / 3)
    assert found.refused == ("2 of 8 verdicts are invalid or failed; more than 5% are too many",)


@pytest.mark.parametrize(("unknown", "refused"), [(2, False), (3, True)])
def test_no_headline_above_five_percent_unknown(unknown: int, refused: bool) -> None:
    pairs = [Pair(row, "a", "b", (Verdict("invalid" if row < unknown else "left"),)) for row in range(40)]
    found = count_wins(LONGER, answers("a", *["a"] * 40), answers("b", *["b"] * 40), pairs)
    assert bool(found.refused) == refused


def test_a_judge_that_errs_in_both_directions_keeps_its_headline() -> None:
    """A coin agrees with itself on half of the pairs: canaries find it, the side does not explain it."""
    rng = np.random.default_rng(3)
    sides: tuple[VerdictChoice, VerdictChoice] = ("left", "right")
    thrown = rng.integers(2, size=(400, 2)).tolist()
    pairs = [Pair(row, "a", "b", (Verdict(sides[one]), Verdict(sides[two]))) for row, (one, two) in enumerate(thrown)]
    assert count_wins(LEFT, answers("a", "a"), answers("b", "b"), pairs).refused == ()


def test_a_judge_must_answer_every_comparison() -> None:
    with pytest.raises(UserError, match="judge 'lazy' gave 0 verdicts on 1 comparisons"):
        ask(Judge("lazy", lambda asked: []), [Comparison("p", "a", "b")])
    turned = turn(Verdict("left", (2.0, 1.0), 0.75, "answer 1 is right"))
    assert turned == Verdict("right", (1.0, 2.0), 0.25, "answer 1 is right")
    assert turn(turn(Verdict("right"))) == Verdict("right")
    assert turn(Verdict("tie")).choice == "tie"


def test_the_interval_is_by_prompt() -> None:
    """Against a bootstrap of whole prompts, slowly; samples of one prompt that agree do not make it narrower."""
    rng = np.random.default_rng(0)
    firsts = rng.random(30) < 0.7
    one = [Pair(row, "a", "b", (Verdict("left" if wins else "right"),)) for row, wins in enumerate(firsts)]
    a, b = answers("a", *["a"] * 30), answers("b", *["b"] * 30)
    found = count_wins(LONGER, a, b, one)
    means = np.sort([firsts[rng.integers(30, size=30)].mean() for _ in range(20_000)])
    assert found.rate.low == pytest.approx(means[500], abs=0.034)
    assert found.rate.high == pytest.approx(means[-500], abs=0.034)
    again = count_wins(LONGER, a, b, [pair for pair in one for _ in range(8)])
    assert again.rate == found.rate == pytest.approx(wilson(int(firsts.sum()), 30))


def test_prompts_that_all_agree_make_nothing_certain() -> None:
    a, b = answers("a", *["xx"] * 12), answers("b", *["x"] * 12)
    won = count_wins(LONGER, a, b, judge_pairs(LONGER, "p" * 12, a, b)).rate
    assert won == pytest.approx(wilson(12, 12))
    tied = count_wins(LONGER, a, a, judge_pairs(LONGER, "p" * 12, a, a))
    assert tied.rate == pytest.approx(wilson(6, 12))
    assert tied.identical == 12


def test_a_rate_at_equal_length_stands_beside_the_raw_one() -> None:
    """The longer answer wins 19 times of 20, whoever wrote it, and A writes longer ones in two of three prompts."""
    rng = np.random.default_rng(0)
    lengths = [(5 + 2 * (row % 3 > 0), 6) for row in range(300)]
    a, b = answers("a", *["x" * ours for ours, _ in lengths]), answers("b", *["y" * theirs for _, theirs in lengths])

    def decide(asked: Sequence[Comparison]) -> list[Verdict]:
        longer = np.array([len(one.left) > len(one.right) for one in asked]) ^ (rng.random(len(asked)) < 0.05)
        return [Verdict("left" if is_left else "right") for is_left in longer]

    found = count_wins(Judge("longer", decide), a, b, judge_pairs(Judge("longer", decide), ["p"] * 300, a, b))
    figures = found.as_json()
    assert found.rate.value > 0.6
    assert figures["controlled"]["low"] < 0.5 < figures["controlled"]["high"]
    assert figures["length_effect"]["low"] > 2 and figures["not_controlled"] is None
    few = count_wins(LONGER, a, a, judge_pairs(LONGER, "p" * 300, a, a)).as_json()
    assert (few["controlled"], few["length_effect"]) == (None, None)
    assert few["not_controlled"] == "the difference in length is the same on every prompt"


def test_verdicts_read_back_as_preferences(tmp_path: Path) -> None:
    chat = (Message("user", "r"),)
    a, b = answers("a", "xx|y|xx|y", "xx|z", "x"), answers("b", "y|xx|y|z", "x|x", "xxx")
    prompts = ("p", "q", chat)
    pairs = judge_pairs(LONGER, prompts, a, b)
    rows = preference_rows(prompts, pairs, ("a", "b"), "longer")
    read: list[Record] = []
    for name, some in (("plain", rows[:4]), ("chat", rows[4:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        source, tally = find_source(str(tmp_path / f"{name}.jsonl")), Tally()
        read += [record for _, record in read_records(source, find_format(source), tally)]
        assert not tally.num_rejected
    one, none, two = ({"margin": (a - b,), "scores": (a, b)} for a, b in ((2.0, 1.0), (1.0, 1.0), (3.0, 1.0)))
    assert read == [
        Preference("p", "xx", "y", 3.0, figures=one),
        Preference("p", "y", "z", tie=True, figures=none),
        Preference("q", "xx", "x", figures=one),
        Preference("q", "z", "x", tie=True, figures=none),
        Preference(chat, (Message("assistant", "xxx"),), (Message("assistant", "x"),), figures=two),
    ]
    assert rows[0]["chosen_by"] == {"a": 2, "b": 1} and rows[0]["rejected_by"] == {"b": 2, "a": 1}
    assert rows[4]["chosen_by"] == {"b": 1}
    assert [row["judge"] for row in rows] == ["longer"] * 5
    assert rows[0]["verdicts"] == [{"state": "decided", "shown_first": "chosen", "choice": "chosen"}]


def test_rows_say_what_each_order_said() -> None:
    verdicts = (Verdict("right", None, 0.25, "answer 2 adds up"), Verdict("invalid", None, None, "cut"))
    sure = (Verdict("right", None, 0.25, "x"), Verdict("right", None, 0.05, "y"))
    pairs = [Pair(0, "bad", "good", verdicts), Pair(1, "bad", "good", sure)]
    row, other = preference_rows(["p", "q"], pairs, ("a", "b"), "j")
    assert (row["chosen"], row["win_prob"], other["win_prob"]) == ("good", 0.75, pytest.approx(0.85))
    assert row["verdicts"] == [
        {
            "state": "decided",
            "shown_first": "rejected",
            "choice": "chosen",
            "probability": 0.75,
            "reason": "answer 2 adds up",
        },
        {"state": "invalid", "shown_first": "chosen", "reason": "cut"},
    ]


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("winrate")
    tokenizer = build_tokenizer()
    for seed in (0, 1):
        build_model(tokenizer, seed).save_pretrained(folder / f"m{seed}")
        tokenizer.save_pretrained(folder / f"m{seed}")
    rows = [{"prompt": prompt, "chosen": "very good fun", "rejected": "bad bad bad"} for prompt in TINY.prompts]
    rows.append({"prompt": TINY.prompts[0], "chosen": "great great great", "rejected": "bad bad bad"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rules.py").write_text("def length(prompt, response):\n    return len(response)\n")
    return folder


def call(place: Path, *words: str, out: str = "out") -> dict:
    command = ["eval", "winrate", *words, "--out", str(place / out)]
    if "--prompts" not in words:
        command += ["--prompts", str(place / "pairs.jsonl")]
    if "--judge" not in words:
        command += ["--judge", "world:tiny"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((place / out / "winrate.json").read_text()) | {"printed": done.output}


def test_two_models_against_a_slow_loop(place: Path) -> None:
    found = call(place, str(place / "m0"), str(place / "m1"), "--samples", "40", "--seed", "5")
    files = sorted((place / "out" / "responses").glob("*.jsonl"))
    assert [file.name[:6] for file in files] == ["m0-t1-", "m1-t1-"]
    sides = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    values = []
    for ours, theirs in zip(*sides, strict=True):
        assert ours["prompt"] == theirs["prompt"]
        mine, other = (reward(TINY, row["prompt"], row["response"]) for row in (ours, theirs))
        values.append((mine > other) + (mine == other) / 2)
    assert found["rate"]["value"] == pytest.approx(np.mean(values))
    assert found["rate"]["low"] <= found["rate"]["value"] <= found["rate"]["high"]
    assert (found["prompts"], found["pairs"], found["orders"]) == (3, 120, 1)
    assert (found["a"], found["b"], found["judge"]) == ("m0", "m1", "world:tiny")
    assert "win rate" in found["printed"] and "judged once" in found["printed"]
    assert "not identifiable: 3 prompts are too few, wanted 10" in found["printed"]


def test_a_model_against_itself_is_even(place: Path) -> None:
    found = call(place, str(place / "m0"), str(place / "m0"), "--samples", "150", out="same")
    assert found["pairs"] == 450
    assert found["rate"]["value"] == pytest.approx(0.5, abs=3 * 0.5 / 450**0.5)
    assert 0 < found["identical"] < 450  # the sides have random numbers of their own
    greedy = call(place, str(place / "m0"), str(place / "m0"), "--temperature", "0", out="greedy")
    assert (greedy["rate"]["value"], greedy["identical"]) == (0.5, 3)


def test_responses_are_used_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (str(place / "m0"), str(place / "m1"), "--samples", "3")
    first = call(place, *words, out="again")
    from preftree.generate import hf

    monkeypatch.setattr(hf, "generate", None)  # whoever draws now fails
    assert call(place, *words, out="again") == first
    monkeypatch.undo()
    torn = next((place / "again" / "responses").glob("m0*.jsonl"))
    torn.write_text(torn.read_text() + '{"prompt": ')  # after the rows that its record counts
    assert call(place, *words, out="again") == first


def test_reference_answers_and_files(place: Path) -> None:
    found = call(place, str(place / "m0"), "chosen", "--samples", "2", out="ref")
    assert (found["pairs"], found["b"]) == (6, "chosen")
    assert found["rate"]["value"] < 0.5
    file = next((place / "ref" / "responses").glob("m0*.jsonl"))
    again = call(place, str(file), "chosen", out="ref2")
    assert again["rate"] == found["rate"]
    turned = call(place, "chosen", str(file), out="ref3")
    assert turned["rate"]["value"] == pytest.approx(1 - found["rate"]["value"])
    rows = [json.loads(line) for line in (place / "ref" / "verdicts.jsonl").read_text().splitlines()]
    assert sum(row.get("weight", 1) for row in rows) == 6
    assert all(row["score_chosen"] >= row["score_rejected"] for row in rows)


def test_repeated_prompts_of_a_file_make_no_interval_narrower(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="preftree")
    rows = (place / "pairs.jsonl").read_text()
    (place / "repeated.jsonl").write_text(rows * 9)
    words = (str(place / "m0"), str(place / "m1"), "--samples", "4", "--prompts")
    once = call(place, *words, str(place / "pairs.jsonl"), out="once")
    caplog.clear()
    again = call(place, *words, str(place / "repeated.jsonl"), out="repeated")
    assert (again["rate"], again["prompts"], again["pairs"]) == (once["rate"], 3, 12)
    assert f"{place / 'repeated.jsonl'}: 33 rows ask what an earlier row asks, and are left out" in caplog.text


def test_a_runs_folder_stands_for_its_model(place: Path) -> None:
    shutil.copytree(place / "m0", place / "run" / "model", dirs_exist_ok=True)
    ours = call(place, str(place / "run"), "chosen", out="run1")
    assert ours["a"] == "run"
    assert ours["rate"] == call(place, str(place / "m0"), "chosen", out="run2")["rate"]


def test_equal_random_numbers_are_pointed_out(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    from preftree.evaluate.answers import Side, draws_of
    from preftree.generate.protocol import Sampling

    for name in ("m0", "m1"):
        command = ["generate", str(place / name), str(place / "pairs.jsonl"), str(place / f"{name}.jsonl")]
        CliRunner().invoke(app, [*command, "--max-new-tokens", "3"], catch_exceptions=False)
    both = [draws_of(Side(name, "file", str(place / f"{name}.jsonl")), 3, 1, Sampling(3)) for name in ("m0", "m1")]
    assert both[0] == both[1] == (0, 4, 1)
    call(place, str(place / "m0.jsonl"), str(place / "m1.jsonl"), out="alike")
    assert "were drawn with the same random numbers (seed 0)" in caplog.text
    assert draws_of(Side("m", "model", "m"), 3, 1, Sampling(3, temperature=0.0)) is None


def test_sides_of_one_name_are_numbered(place: Path) -> None:
    names = [side.name for side in find_sides([str(place / "m0"), str(place / "m1"), str(place / "m0")])]
    assert names == ["m0 (1)", "m1", "m0 (2)"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.jsonl", "chosen"], "nowhere.jsonl does not exist; give a file"),
        (["{}/none", "chosen"], "model folder '.*none' does not exist"),
        (["{}/short.jsonl", "chosen"], r"short.jsonl has no answer to the prompt of .*pairs.jsonl:2"),
        (["{}/odd.jsonl", "chosen"], r"odd.jsonl:1: 'response' is missing; fix the row"),
        (["{}/m0", "chosen", "--judge", "nothing"], "reward must be world:NAME"),
        (["{}/m0", "chosen", "--prompts", "{}/other.txt"], r"'world:tiny' knows its own prompts only.*other.txt:2"),
        (["{}/m0", "chosen", "--prompts", "{}/world.txt"], "'chosen' stands for the answers in --prompts"),
        (["{}/m0", "chosen", "--prompts", "{}/one.txt"], "has one prompt, and an interval over prompts needs two"),
        (["{}/m0", "chosen", "--top-p", "0"], "top_p must be in"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(place: Path, words: list[str], said: str) -> None:
    (place / "short.jsonl").write_text(json.dumps({"prompt": TINY.prompts[0], "response": "bad"}) + "\n")
    (place / "odd.jsonl").write_text(json.dumps({"prompt": TINY.prompts[0]}) + "\n")
    (place / "other.txt").write_text(f"{TINY.prompts[0]}\nsay\n")
    (place / "world.txt").write_text("\n".join(TINY.prompts))
    (place / "one.txt").write_text(f"{TINY.prompts[0]}\n" * 2)
    given = ["--prompts", str(place / "pairs.jsonl"), "--judge", "world:tiny", "--out", str(place / "bad")]
    done = CliRunner().invoke(app, ["eval", "winrate", *given, *(word.format(place) for word in words)])
    assert isinstance(done.exception, UserError), done.output
    assert re.search(said, str(done.exception)), done.exception


def test_a_reward_model_judges(place: Path) -> None:
    folder = place / "judge"
    make_model(place / "base")
    reward_model(place / "base").save_pretrained(folder)
    plain_tokenizer().save_pretrained(folder)
    rows = [{"prompt": prompt, "response": text} for prompt in TINY.prompts for text in ("good plot", "bad", "")]
    (place / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "theirs.jsonl").write_text("".join(json.dumps(row | {"response": "the movie"}) + "\n" for row in rows))
    found = call(place, str(place / "mine.jsonl"), str(place / "theirs.jsonl"), "--judge", str(folder), out="rm")
    rewards = load_rewards(str(folder))
    values = rewards([row["prompt"] for row in rows], [row["response"] for row in rows])
    others = rewards([row["prompt"] for row in rows], ["the movie"] * len(rows))
    assert 0 < found["rate"]["value"] == pytest.approx(np.mean((1 + np.sign(values - others)) / 2))
    assert found["judge"].startswith(f"{folder} ")

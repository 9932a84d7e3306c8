"""Panels: better than the majority where judges differ, and a copy is no second opinion."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from preftree.crowd.annotators import Votes, fit_annotators
from preftree.crowd.copies import fit_once_each
from preftree.errors import ConfigError
from preftree.judges.pairwise import Judge, ask, load_judge
from preftree.judges.panel import JudgePanel, panel_votes
from preftree.records import Comparison, Verdict

SKILLS = {"good": (0.85, 0.0), "plain": (0.72, 0.0), "left one": (0.65, 2.5), "left two": (0.65, 2.5)}
"""Probability of being right where sides cancel, and what is added for the left response, in log-odds."""


def judge_of(name: str, seed: int) -> Judge:
    """A judge whose draws depend on the comparison alone; the better response is the one that begins with R."""
    accuracy, left = SKILLS[name]

    def decide(asked: Sequence[Comparison]) -> list[Verdict]:
        verdicts = []
        for one in asked:
            side = 1 if one.left.startswith("R") else -1
            noise = np.random.default_rng([seed, int(str(one.prompt))]).logistic()  # one opinion a pair
            found = side * (logit(accuracy) + noise) + left > 0
            verdicts.append(Verdict("left" if found else "right"))
        return verdicts

    return Judge(name, decide)


def comparisons(count: int, seed: int) -> list[Comparison]:
    flips = np.random.default_rng(seed).random(count) < 0.5
    return [Comparison(str(n), *(("R", "W") if flip else ("W", "R"))) for n, flip in enumerate(flips)]


def panel_of(seed: int) -> tuple[list[Judge], list[str]]:
    """Five judges: two follow the left, and one is a copy of the plain one."""
    judges = [judge_of(name, 10 * seed + number) for number, name in enumerate(SKILLS)]
    plain = judges[1]
    return [*judges, Judge("copy", plain.decide)], [*SKILLS, "copy"]


def share_right(chance: np.ndarray, asked: Sequence[Comparison]) -> float:
    better = np.array([one.left == "R" for one in asked])
    return float(np.where(np.abs(chance - 0.5) < 1e-9, 0.5, (chance > 0.5) == better).mean())


def test_the_panel_beats_the_majority_and_names_the_copy(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="preftree")
    ours, theirs, double = [], [], []
    for seed in range(5):
        judges, names = panel_of(seed)
        asked = comparisons(400, seed)
        answered = [ask(judge, asked) for judge in judges]
        votes = panel_votes(answered)
        count = np.bincount(votes.item, minlength=len(asked))
        majority = np.bincount(votes.item, votes.for_first, len(asked)) / count
        caplog.clear()
        verdicts = JudgePanel(judges, names).decide(asked)
        assert caplog.text.count("err together") == 1
        assert "plain and copy err together" in caplog.text
        ours.append(share_right(np.array([verdict.probability for verdict in verdicts]), asked))
        theirs.append(share_right(majority, asked))
        double.append(share_right(fit_annotators(votes, len(asked), 5).win_prob, asked))
    figures = f"panel {np.mean(ours):.3f}, majority {np.mean(theirs):.3f}"
    print(f"{figures}, with the copy counted twice {np.mean(double):.3f}")
    assert np.mean(ours) >= max(np.mean(theirs), np.mean(double)) + 0.02


def test_a_copy_changes_nothing() -> None:
    judges, _ = panel_of(0)
    asked = comparisons(300, 0)
    answered = [ask(judge, asked) for judge in judges]
    with_copy = fit_once_each(panel_votes(answered), 300, 5)
    (pair,) = with_copy.copies
    assert (pair.kept, pair.copy) == (1, 4) and pair.correlation == pytest.approx(1)
    votes = panel_votes(answered)
    without = Votes(*(part[votes.annotator < 4] for part in votes))
    np.testing.assert_array_equal(with_copy.fit.win_prob, fit_annotators(without, 300, 5).win_prob)
    assert with_copy.fit.skill[4] == with_copy.fit.skill[1]


@pytest.mark.parametrize("seed", range(8))
def test_independent_judges_are_no_copies(seed: int) -> None:
    """Also where pairs differ in how hard they are, which makes errors of independent judges alike."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(1.2, 1.0, 300)
    better = rng.random(300) < 0.5
    item, annotator = np.divmod(np.arange(1500), 5)
    right = rng.random(1500) < expit(hard[item])
    votes = Votes(item, annotator, (right == better[item]).astype(float), np.where(item % 2 == 0, 1.0, -1.0))
    assert fit_once_each(votes, 300, 5).copies == ()


def test_judges_and_people_are_weighed_together() -> None:
    """Three people on each pair and two judges: the skills of all, from votes alone."""
    rng = np.random.default_rng(0)
    accuracy = np.array([0.9, 0.6, 0.75, 0.75, 0.75, 0.6])  # two judges, four people of whom three vote
    better = rng.random(600) < 0.5
    item, annotator = [], []
    for number in range(600):
        who = [0, 1, *(2 + rng.permutation(4)[:3])]
        item += [number] * 5
        annotator += who
    item, annotator = np.array(item), np.array(annotator)
    right = rng.random(3000) < accuracy[annotator]
    side = rng.choice([-1.0, 1.0], 3000)
    panel = fit_once_each(Votes(item, annotator, (right == better[item]).astype(float), side), 600, 6)
    np.testing.assert_allclose(expit(panel.fit.skill), accuracy, atol=0.06)
    assert panel.copies == ()


def test_the_name_of_a_panel(tmp_path: Path) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text("def longer(prompt, response):\n    return len(response)\n")
    judge = load_judge(f"panel:{rules}:longer, world:tiny")
    assert not judge.sees_order
    assert judge.name.startswith(f"panel:{rules}:longer ") and judge.name.endswith(", world:tiny")
    for spec in ("panel:world:tiny", "panel:", "panel:world:tiny,panel:world:tiny"):
        with pytest.raises(ConfigError, match="must name two judges or more, with commas between"):
            load_judge(spec)


def test_what_nobody_can_read_is_invalid() -> None:
    mute = Judge("mute", lambda asked: [Verdict("failed")] * len(asked))
    (verdict,) = JudgePanel([mute, mute], ["a", "b"]).decide([Comparison("p", "x", "y")])
    assert verdict.choice == "invalid" and verdict.reason == "no judge of the panel can be read"
    left = Judge("left", lambda asked: [Verdict("left")] * len(asked))
    (verdict,) = JudgePanel([mute, left], ["a", "b"]).decide([Comparison("p", "x", "y")])
    assert (verdict.choice, verdict.probability) == ("tie", 0.5)
    assert JudgePanel([mute], ["a"]).decide([]) == []

"""Judges of pairs: a batch of comparisons in, a verdict on each out.

Everything that compares two responses is a `Judge`; here it is a reward of single responses. A judge that reads both
responses at once, such as a language model asked for its opinion, sets `sees_order` and is shown every pair twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from preftree.errors import ConfigError, JudgeError
from preftree.judges.functions import identify
from preftree.judges.known_pairs import KnownPair, read_known_pairs
from preftree.judges.llm.bill import Asking
from preftree.judges.llm.specs import find_llm, identify_llm
from preftree.judges.rewards import Rewards, load_rewards
from preftree.records import Comparison, Verdict, VerdictChoice

VALUE = {"left": 1.0, "tie": 0.5, "invalid": 0.5, "failed": 0.5, "right": 0.0}
"""Value of a verdict for the left response; win rates bound what invalid and failed ones may be worth."""


UNKNOWN = ("invalid", "failed")
"""Choices that say nothing of the responses."""

PANEL = "panel:"
"""What the name of several judges in one begins with."""

TURNED: Mapping[VerdictChoice, VerdictChoice] = {"left": "right", "right": "left"}


@dataclass(frozen=True, slots=True)
class Judge:
    """A judge of which of two responses is better.

    Attributes:
      name: Name, with a digest where there is one.
      decide: The verdicts on a batch of comparisons, in their order.
      sees_order: Whether the side on which a response is shown can change the verdict.
      known_pairs: Pairs of which its canaries are made (judges/canaries.py); a judge without them is shown none.
    """

    name: str
    decide: Callable[[Sequence[Comparison]], Sequence[Verdict]]
    sees_order: bool = True
    known_pairs: tuple[KnownPair, ...] = ()


def judge_by_rewards(rewards: Rewards, name: str) -> Judge:
    """A judge that prefers the response of higher reward; equal rewards are ties.

    Args:
      rewards: Rewards of single responses, so that the sides cannot matter.
      name: Name of the judge.
    """

    def decide(comparisons: Sequence[Comparison]) -> list[Verdict]:
        sides = [comparison.left for comparison in comparisons] + [comparison.right for comparison in comparisons]
        values = rewards([comparison.prompt for comparison in comparisons] * 2, sides).tolist()
        pairs = zip(values[: len(comparisons)], values[len(comparisons) :], strict=True)
        return [Verdict("left" if a > b else "right" if b > a else "tie", (a, b)) for a, b in pairs]

    return Judge(name, decide, sees_order=False)


def load_judge(spec: str, how: Asking | None = None) -> Judge:
    """A judge by its name, as `--judge` takes it: a language model (judges/llm/specs.py), or any reward.

    Args:
      spec: The name.
      how: Limit of the cost, progress and bill of a language model.
    Raises:
      ConfigError: there is no such judge or reward, or its rubric does not compare.
      DataError: its references or canaries cannot be read.
    """
    if spec.startswith(PANEL):
        return _load_panel(spec, how)
    found = find_llm(spec)
    if found is None:
        return judge_by_rewards(load_rewards(spec), identify(spec))
    if found.mode == "ranking":
        raise ConfigError(f"judge {spec!r} orders lists (mode: ranking); to compare two responses give mode: pairwise")
    known = read_known_pairs(found.canaries)
    if found.endpoint is None:
        from preftree.judges.llm.local import LocalJudge

        local = LocalJudge(found)
        if found.mode == "pointwise":
            return replace(judge_by_rewards(local.score, identify_llm(spec, found)), known_pairs=known)
        return Judge(identify_llm(spec, found), local.compare, known_pairs=known)
    from preftree.judges.llm.judge import LanguageModelJudge

    model = LanguageModelJudge(found, how or Asking())
    if found.mode == "pointwise":
        return Judge(identify_llm(spec, found), model.compare_scores, sees_order=False, known_pairs=known)
    return Judge(identify_llm(spec, found), model.compare, known_pairs=known)


def _load_panel(spec: str, how: Asking | None) -> Judge:
    """Several judges as one: `panel:A,B,C`."""
    from preftree.judges.panel import JudgePanel

    names = [name.strip() for name in spec.removeprefix(PANEL).split(",")]
    if len(names) < 2 or not all(names) or any(name.startswith(PANEL) for name in names):
        raise ConfigError(f"judge {spec!r} must name two judges or more, with commas between them, and no panel in it")
    judges = [load_judge(name, how) for name in names]
    known = next((judge.known_pairs for judge in judges if judge.known_pairs), ())
    name = PANEL + ", ".join(judge.name for judge in judges)
    return Judge(name, JudgePanel(judges, names).decide, sees_order=False, known_pairs=known)


def ask(judge: Judge, comparisons: Sequence[Comparison]) -> list[tuple[Verdict, ...]]:
    """The verdicts on each comparison, all in terms of its left and right.

    Returns:
      For each comparison one verdict, or two where the judge sees the order: the second with the sides swapped.
    Raises:
      JudgeError: the judge gave another number of verdicts than it was asked for.
    """
    straight = _decide(judge, comparisons)
    if not judge.sees_order:
        return [(verdict,) for verdict in straight]
    turned = _decide(judge, [Comparison(pair.prompt, pair.right, pair.left) for pair in comparisons])
    return [(verdict, turn(other)) for verdict, other in zip(straight, turned, strict=True)]


def turn(verdict: Verdict) -> Verdict:
    """The verdict with the sides swapped."""
    return Verdict(
        TURNED.get(verdict.choice, verdict.choice),
        verdict.scores and (verdict.scores[1], verdict.scores[0]),
        None if verdict.probability is None else 1 - verdict.probability,
        verdict.reason,
    )


def _decide(judge: Judge, comparisons: Sequence[Comparison]) -> list[Verdict]:
    verdicts = list(judge.decide(comparisons)) if comparisons else []
    if len(verdicts) != len(comparisons):
        raise JudgeError(f"judge {judge.name!r} gave {len(verdicts)} verdicts on {len(comparisons)} comparisons")
    return verdicts

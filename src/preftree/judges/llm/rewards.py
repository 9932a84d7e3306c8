"""Scores and rankings of a language model as rewards, once it has passed its canaries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from preftree.errors import ConfigError, JudgeError
from preftree.judges.canaries import make_canaries, show_canaries, weigh_canaries
from preftree.judges.known_pairs import read_known_pairs
from preftree.judges.llm.bill import Asking
from preftree.judges.llm.judge import LanguageModelJudge
from preftree.judges.llm.local import LocalJudge
from preftree.judges.llm.rubric import JudgeFile
from preftree.judges.pairwise import Judge, judge_by_rewards
from preftree.records import Comparison, Text, Verdict

log = logging.getLogger("preftree")

Values: TypeAlias = Callable[[Sequence[Text], Sequence[str]], Float[np.ndarray, " N"]]


def rewards_of_model(spec: str, judge: JudgeFile, how: Asking, *, in_groups: bool) -> Values:
    """Rewards of a language model.

    Args:
      spec: Its name.
      judge: Its file.
      how: Limit of the cost, progress and bill.
      in_groups: Whether all responses to a prompt come in one call.
    Raises:
      ConfigError: the rubric compares, or ranks where responses come one by one.
      JudgeError: it fails its canaries.
    """
    if judge.mode == "pairwise":
        raise ConfigError(f"reward {spec!r} compares two responses (mode: pairwise); to score one give mode: pointwise")
    if judge.mode == "ranking" and not in_groups:
        raise ConfigError(
            f"reward {spec!r} orders lists (mode: ranking), and here each response needs its own score; "
            "give mode: pointwise"
        )
    known = read_known_pairs(judge.canaries)
    values: Values
    if judge.endpoint is None:
        values = LocalJudge(judge).score
        report = show_canaries(replace(judge_by_rewards(values, spec), known_pairs=known))
    elif judge.mode == "pointwise":
        model = LanguageModelJudge(judge, how)
        report = show_canaries(Judge(spec, model.compare_scores, sees_order=False, known_pairs=known))
        values = model.rewards
    else:
        model = LanguageModelJudge(judge, how)
        verdicts = {
            kind: [(verdict,) for verdict in _ranked(model, canaries)]
            for kind, canaries in make_canaries(known).items()
        }
        report = weigh_canaries(verdicts, [])
        values = model.rewards_in_groups
    assert report is not None
    log.info("canaries of %s: %s", spec, "; ".join(report.lines()))
    if report.refusal is not None:
        raise JudgeError(f"reward {spec!r}: {report.refusal}, so it orders nothing; take another model or rubric")
    return values


def _ranked(model: LanguageModelJudge, canaries: Sequence[Comparison]) -> list[Verdict]:
    """Verdicts of a ranking of two."""
    prompts = [canary.prompt for canary in canaries for _ in range(2)]
    values = model.rewards_in_groups(prompts, [text for canary in canaries for text in (canary.left, canary.right)])
    pairs = values.reshape(-1, 2).tolist()
    return [
        Verdict("left" if one > two else "right" if two > one else "tie" if one == two else "invalid")
        for one, two in pairs
    ]

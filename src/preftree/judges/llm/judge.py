"""Verdicts and rewards of a language model at an endpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from preftree.data.prompts import prompt_key, read_demonstrations
from preftree.errors import JudgeError
from preftree.judges.llm.asking import AskedFor, Asker
from preftree.judges.llm.bill import Asking
from preftree.judges.llm.prompt import Question
from preftree.judges.llm.rubric import JudgeFile, Rubric
from preftree.records import Comparison, Text, Verdict

log = logging.getLogger("preftree")

REPEATS = 2
"""Times that a score that cannot be read is asked for again; a verdict is not, since its bounds are known."""


class LanguageModelJudge:
    """A language model that compares, scores, or orders responses."""

    def __init__(self, judge: JudgeFile, how: Asking) -> None:
        """Prepare to ask; nothing is sent.

        Raises:
          ConfigError: the endpoint is not allowed, or its key is missing.
          DataError: the references cannot be read.
        """
        self._judge, self._asker = judge, Asker(judge, how)
        self._references = read_references(judge)

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Verdicts of a pairwise rubric."""
        questions = [self._question(one.prompt, (one.left, one.right)) for one in comparisons]
        return [self._verdict(answer) for answer in self._asker.ask(questions)]

    def compare_scores(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Verdicts of a pointwise rubric: the response of higher score, or a tie."""
        prompts = [comparison.prompt for comparison in comparisons] * 2
        sides = [comparison.left for comparison in comparisons] + [comparison.right for comparison in comparisons]
        answers = self._score(prompts, sides)
        pairs = zip(answers[: len(comparisons)], answers[len(comparisons) :], strict=True)
        return [self._by_score(*pair) for pair in pairs]

    def rewards(self, prompts: Sequence[Text], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Weighted mean scores of a pointwise rubric; not a number where the judge gives none that can be read."""
        values = [self._value(answer) for answer in self._score(prompts, responses)]
        self._warn_of_gaps(values)
        return np.array([np.nan if value is None else value for value in values], np.float64)

    def rewards_in_groups(self, prompts: Sequence[Text], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Places of a ranking rubric among the responses to the same prompt next to each other, in [0, 1], best 1.

        Each group is shown in its order and backwards, and a place is the mean over both; not a number where neither
        order can be read. A response that has no other to be compared with is worth 1/2.
        """
        values = np.full(len(responses), np.nan)
        groups = _neighbours(prompts)
        asked = [(group, order) for group in groups if len(group) > 1 for order in (1, -1)]
        questions = [
            self._question(prompts[group[0]], tuple(responses[row] for row in group[::order])) for group, order in asked
        ]
        answers = self._asker.ask(questions, name="rankings")
        for group in groups:
            if len(group) == 1:
                values[group] = 0.5
        places: dict[int, list[float]] = {}
        for (group, order), answer in zip(asked, answers, strict=True):
            if answer.reading is not None and answer.reading.judgement is not None:
                shown = [*group][::order]
                for row, place in zip(shown, self._places(answer), strict=True):
                    places.setdefault(row, []).append(place)
        for row, both in places.items():
            values[row] = sum(both) / len(both)
        self._warn_of_gaps([None if np.isnan(value) else value for value in values.tolist()])
        return values

    def _score(self, prompts: Sequence[Text], responses: Sequence[str]) -> list[AskedFor]:
        """Answers of a pointwise rubric; one that cannot be read is asked for again, as another draw."""
        questions = [self._question(*pair) for pair in zip(prompts, ((text,) for text in responses), strict=True)]
        answers = self._asker.ask(questions, name="scores")
        for repeat in range(1, REPEATS + 1):
            again = [row for row, answer in enumerate(answers) if answer.reading and answer.reading.judgement is None]
            drawn = self._asker.ask([questions[row] for row in again], repeat=repeat, name="scores") if again else []
            for row, answer in zip(again, drawn, strict=True):
                answers[row] = answer
        return answers

    def _question(self, prompt: Text, responses: tuple[str, ...]) -> Question:
        reference = None
        if self._references is not None:
            reference = self._references.get(prompt_key(prompt))
            if reference is None:
                raise JudgeError(
                    f"{self._judge.references} has no reference for the prompt {prompt_key(prompt)[:60]!r}; add it, or "
                    "leave references out"
                )
        return Question(self._judge, prompt, responses, reference)

    def _verdict(self, answer: AskedFor) -> Verdict:
        if answer.reading is None:
            return Verdict("failed", reason=answer.fault)
        judgement, reason = answer.reading.judgement, answer.reading.reason
        if judgement is None:
            return Verdict("invalid", reason=reason)
        first, second = (_weight_of(self._judge, judgement, name) for name in answer.names)
        scores = (first, second) if len(judgement) > 1 else None
        gap = first - second
        return Verdict("tie" if abs(gap) < 1e-9 else "left" if gap > 0 else "right", scores, reason=reason)

    def _by_score(self, left: AskedFor, right: AskedFor) -> Verdict:
        values = (self._value(left), self._value(right))
        if values[0] is None or values[1] is None:
            return self._verdict(left if values[0] is None else right)
        gap = values[0] - values[1]
        return Verdict("tie" if abs(gap) < 1e-9 else "left" if gap > 0 else "right", (values[0], values[1]))

    def _value(self, answer: AskedFor) -> float | None:
        """Weighted mean of a pointwise answer's scores."""
        if answer.reading is None or answer.reading.judgement is None:
            return None
        weights = {criterion.name: criterion.weight for criterion in self._judge.criteria}
        judgement = answer.reading.judgement
        total = sum(weights.get(name, 1.0) for name in judgement)
        return sum(weights.get(name, 1.0) * score for name, score in judgement.items()) / total

    def _places(self, answer: AskedFor) -> list[float]:
        """Weighted mean place of each response as shown, 1 for the best and 0 for the last."""
        assert answer.reading is not None and answer.reading.judgement is not None
        weights = {criterion.name: criterion.weight for criterion in self._judge.criteria}
        places = dict.fromkeys(answer.names, 0.0)
        total = 0.0
        for name, order in answer.reading.judgement.items():
            weight = weights.get(name, 1.0)
            total += weight
            for place, response in enumerate(order):
                places[response] += weight * (1 - place / (len(order) - 1))
        return [value / total for value in places.values()]

    def _warn_of_gaps(self, values: Sequence[float | None]) -> None:
        if gaps := sum(value is None for value in values):
            log.warning("the judge %s gave no value for %d of %d responses", self._judge.model, gaps, len(values))


def read_references(judge: Rubric) -> Mapping[str, str] | None:
    """Reference answers by the key of their prompt; None where the rubric has none.

    Raises:
      DataError: the file cannot be read.
    """
    if judge.references is None:
        return None
    references: dict[str, str] = {}
    for _, row in read_demonstrations(judge.references):
        text = row.response if isinstance(row.response, str) else row.response[-1].content
        references.setdefault(prompt_key(row.prompt), text)
    return references


def _weight_of(rubric: Rubric, judgement: Mapping[str, str], name: str) -> float:
    """Share of the weights of the criteria by which a response is the better one; a tie is half."""
    weights = {criterion.name: criterion.weight for criterion in rubric.criteria}
    shares = {part: weights.get(part, 1.0) for part in judgement}
    won = sum(
        weight * (1.0 if judgement[part] == name else 0.5 * (judgement[part] == "tie"))
        for part, weight in shares.items()
    )
    return won / sum(shares.values())


def _neighbours(prompts: Sequence[Text]) -> list[range]:
    """Runs of equal prompts."""
    starts = [row for row, prompt in enumerate(prompts) if not row or prompt != prompts[row - 1]]
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(prompts)], strict=True)]

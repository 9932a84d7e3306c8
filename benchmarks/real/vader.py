"""A reward that nobody here wrote: VADER's compound score (Hutto and Gilbert 2014; the package vaderSentiment, MIT).

    preftree data rank samples.jsonl ranked.jsonl --reward benchmarks/real/vader.py:compound

VADER sums ratings of some 7,500 words and emoticons, with rules for negation, degree and emphasis, and maps the sum to
-1 (most negative) to 1 (most positive); a text without a rated word has 0. As in the controlled experiment of Rafailov
et al. 2023 (arXiv:2305.18290), the score is of the whole text, the given beginning and its continuation.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def compound(prompt: str, response: str) -> float:
    """Sentiment of a prompt with its response, from -1 to 1."""
    return float(_analyzer().polarity_scores(prompt + response)["compound"])

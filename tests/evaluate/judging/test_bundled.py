"""The bundled items, checked by a reader of their prompts that shares nothing with their maker."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest

from preftree.evaluate.judging.bundled import bundled_items
from preftree.evaluate.judging.labelled import LabelledItem

FACTORS = {
    ("metres", "kilometres"): 1000,
    ("centimetres", "metres"): 100,
    ("minutes", "hours"): 60,
    ("seconds", "minutes"): 60,
    ("grams", "kilograms"): 1000,
    ("hours", "days"): 24,
    ("days", "weeks"): 7,
    ("millilitres", "litres"): 1000,
    ("inches", "feet"): 12,
    ("pieces", "dozens"): 12,
}
MEMBERS = {
    "a fruit": {"apple", "pear", "plum", "cherry", "grape", "lemon"},
    "an animal": {"horse", "otter", "sparrow", "badger", "hedgehog", "goat"},
    "a tool": {"hammer", "chisel", "wrench", "screwdriver", "pliers", "spanner"},
    "a musical instrument": {"violin", "trumpet", "cello", "harp", "oboe", "banjo"},
    "a country": {"Norway", "Peru", "Kenya", "Japan", "Chile", "Poland"},
    "a day of the week": {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"},
}


def last_word(answer: str) -> str:
    return re.findall(r"\w+", answer)[-1]


def product_and_sum(text: str) -> int:
    total = 0
    for term in text.split("+"):
        factors = [int(part) for part in term.split("*")]
        total += int(np.prod(factors))
    return total


def is_right(prompt: str, answer: str) -> bool:
    """Whether an answer does what the prompt asks."""
    if match := re.fullmatch(r"What is ([\d +*]+)\?", prompt):
        return last_word(answer) == str(product_and_sum(match[1]))
    if match := re.fullmatch(r'How often does the letter "(.)" occur in "(.*)"\?', prompt):
        return last_word(answer) == str(Counter(match[2])[match[1]])
    if match := re.fullmatch(r"How many (\w+) are (\d+) (\w+)\?", prompt):
        return last_word(answer) == str(FACTORS[match[1], match[3]] * int(match[2]))
    if match := re.fullmatch(r"Which of these is not (.*): (.*)\?", prompt):
        return {last_word(answer)} == set(match[2].split(", ")) - MEMBERS[match[1]]
    if match := re.fullmatch(r"Answer with a JSON list .* alphabetical order: (.*)\.", prompt):
        try:
            return json.loads(answer) == sorted(match[1].split(", "))
        except ValueError:
            return False
    if match := re.fullmatch(r"Answer in capital letters, .*: (.*)\.", prompt):
        return answer == match[1].replace(",", "").upper()
    if match := re.fullmatch(r'Answer with exactly (\d+) words, one of them "(.*)", and a full stop .*', prompt):
        words = answer.lower().rstrip(".").split()
        return answer.endswith(".") and len(words) == int(match[1]) and match[2] in words
    if match := re.fullmatch(r"Name (.*) that begins with the letter (.)\.", prompt):
        return last_word(answer) in MEMBERS[match[1]] and last_word(answer)[0].upper() == match[2]
    match = re.fullmatch(r"Name (.*)\. Any will do \(\d+\)\.", prompt)
    assert match, prompt
    return last_word(answer) in MEMBERS[match[1]]


@pytest.fixture(scope="module")
def items() -> list[LabelledItem]:
    return bundled_items()


def test_what_is_called_right_is_right(items: list[LabelledItem]) -> None:
    odd = [
        (item.prompt, answer, expected)
        for item in items
        for answers, expected in ((item.right, True), (item.wrong, False))
        for answer in answers
        if is_right(str(item.prompt), answer) != expected
    ]
    assert odd == []
    assert all(len(set(item.right + item.wrong)) == len(item.right + item.wrong) for item in items)


def test_there_are_enough_of_each_kind_and_always_the_same(items: list[LabelledItem]) -> None:
    assert len(items) == len({item.key for item in items}) == 420
    counts = Counter(item.subset for item in items)
    assert set(counts) == {"arithmetic", "counting", "format", "constraints", "units", "negation", "ties"}
    assert min(counts.values()) >= 40
    assert sum(len(item.wrong) == 3 and len(item.right) == 1 for item in items) >= 120
    assert sum(item.name.startswith("tied:") for item in items) == 20
    assert items == bundled_items()


def test_the_length_of_an_answer_says_nothing(items: list[LabelledItem]) -> None:
    longer = [np.sign(len(right) - len(wrong)) for item in items for right in item.right for wrong in item.wrong]
    assert abs(np.mean(longer)) < 0.08

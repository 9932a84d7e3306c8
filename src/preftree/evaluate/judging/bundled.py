"""Items that are right by construction: arithmetic, counting, format, constraints, units and negation.

Each is made from a fixed seed, so everyone has the same ones. How long an answer is has nothing to do with its being
right, so that a liking for length shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from preftree.evaluate.judging.labelled import LabelledItem

SEED = 20261130

KINDS = {
    kind: members.split()
    for kind, members in {
        "a fruit": "apple pear plum cherry grape lemon",
        "an animal": "horse otter sparrow badger hedgehog goat",
        "a tool": "hammer chisel wrench screwdriver pliers spanner",
        "a musical instrument": "violin trumpet cello harp oboe banjo",
        "a country": "Norway Peru Kenya Japan Chile Poland",
        "a day of the week": "Monday Tuesday Wednesday Thursday Friday Saturday",
    }.items()
}
"""Members of each kind; no word is of two kinds."""

WORDS, SENTENCE = (
    text.split()
    for text in (
        "banana letter summer butter coffee kitten mirror ribbon tunnel carrot puzzle saddle hollow basket "
        "lantern pattern blossom address balloon success possess mammoth cabbage giraffe raccoon current million",
        "the old boat came home late and all of us were glad to see its lamp on the dark water again",
    )
)

UNITS = (
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("kilograms", "grams", 1000),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("litres", "millilitres", 1000),
    ("feet", "inches", 12),
    ("dozens", "pieces", 12),
)

_STYLES = (
    "{}",
    "It is {}.",
    "The answer is {}.",
    "Worked out step by step and checked once more at the end, the answer comes to {}.",
    "Thank you for the question. Having looked at each part of it with some care, the result that I arrive at is {}.",
)


def bundled_items() -> list[LabelledItem]:
    """420 items: 380 of six subsets, a third of them with three wrong answers, and 20 pairs of `ref` and `tied`."""
    rng = np.random.default_rng(SEED)
    makers: Sequence[tuple[str, int, Callable[[np.random.Generator], tuple[str, str, list[str]]]]] = (
        ("arithmetic", 70, _arithmetic),
        ("counting", 60, _counting),
        ("format", 60, _format),
        ("constraints", 60, _constraints),
        ("units", 60, _units),
        ("negation", 70, _negation),
    )
    items: list[LabelledItem] = []
    for subset, count, make in makers:
        prompts: set[str] = set()
        while len(prompts) < count:
            prompt, right, wrong = make(rng)
            if prompt in prompts:
                continue
            number = len(prompts)
            prompts.add(prompt)
            kept = wrong if number % 3 == 0 else wrong[:1]
            items.append(LabelledItem(prompt, (right,), tuple(kept), subset, f"{subset}:{number}"))
    return [*items, *_ties(rng)]


def _styled(rng: np.random.Generator, answer: object) -> str:
    return _STYLES[rng.integers(len(_STYLES))].format(answer)


def _numbers(rng: np.random.Generator, right: int, near: Sequence[int]) -> tuple[str, list[str]]:
    """The right number and three wrong ones, each in a style of its own."""
    wrong = [number for number in dict.fromkeys(near) if number != right and number >= 0]
    chosen = rng.permutation(len(wrong))[:3]
    return _styled(rng, right), [_styled(rng, wrong[place]) for place in chosen]


def _arithmetic(rng: np.random.Generator) -> tuple[str, str, list[str]]:
    a, b, c = (int(rng.integers(12, 90)) for _ in range(3))
    kind = int(rng.integers(3))
    prompt, right = (
        (f"What is {a} + {b} + {c}?", a + b + c),
        (f"What is {a} * {b % 9 + 3}?", a * (b % 9 + 3)),
        (f"What is {a} * {b} + {c}?", a * b + c),
    )[kind]
    return prompt, *_numbers(rng, right, [right + 10, right - 10, right + 1, right - 1, right + 100, right - 2])


def _counting(rng: np.random.Generator) -> tuple[str, str, list[str]]:
    some = [WORDS[place] for place in rng.permutation(len(WORDS))[: int(rng.integers(1, 4))]]
    text = " ".join(some)
    letter = str(rng.choice(sorted(set(text.replace(" ", "")))))
    right = text.count(letter)
    prompt = f'How often does the letter "{letter}" occur in "{text}"?'
    return prompt, *_numbers(rng, right, [right + 1, right - 1, right + 2, right + 3, right - 2])


def _units(rng: np.random.Generator) -> tuple[str, str, list[str]]:
    big, small, factor = UNITS[rng.integers(len(UNITS))]
    count = int(rng.integers(2, 60))
    right = count * factor
    near = [right * 10, right // 10, right + factor, right - factor, count + factor]
    return f"How many {small} are {count} {big}?", *_numbers(rng, right, near)


def _negation(rng: np.random.Generator) -> tuple[str, str, list[str]]:
    kind, other = (list(KINDS)[place] for place in rng.permutation(len(KINDS))[:2])
    members = [KINDS[kind][place] for place in rng.permutation(6)[:3]]
    odd = str(rng.choice(KINDS[other]))
    listed = [[*members, odd][place] for place in rng.permutation(4)]
    prompt = f"Which of these is not {kind}: {', '.join(listed)}?"
    return prompt, _styled(rng, odd), [_styled(rng, member) for member in members]


def _format(rng: np.random.Generator) -> tuple[str, str, list[str]]:
    some = [WORDS[place] for place in rng.permutation(len(WORDS))[: int(rng.integers(3, 6))]]
    listed = ", ".join(some)
    if rng.random() < 0.5:
        right = json.dumps(sorted(some))
        prompt = f"Answer with a JSON list and nothing else: these words in alphabetical order: {listed}."
        wrong = [
            json.dumps(sorted(some, reverse=True)),
            f"Here is the list: {right}",
            json.dumps(sorted(some)[1:]),
            right.replace('"', "'"),
        ]
    else:
        right = " ".join(word.upper() for word in some)
        prompt = f"Answer in capital letters, with one space between words and no comma: {listed}."
        wrong = [right.lower(), right.replace(" ", ", "), right.title(), f"Certainly: {right}"]
    return prompt, right, [wrong[place] for place in rng.permutation(4)[:3]]


def _constraints(rng: np.random.Generator) -> tuple[str, str, list[str]]:
    count, start = int(rng.integers(4, 10)), int(rng.integers(0, 8))
    words = SENTENCE[start : start + count]
    must = str(rng.choice(words))
    right = _sentence(words)
    prompt = f'Answer with exactly {count} words, one of them "{must}", and a full stop at the end.'
    extra, without = [*words, "again"], [word if word != must else "everything" for word in words]
    wrong = [_sentence(extra), _sentence(words[:-1]), _sentence(without), right.removesuffix(".")]
    return prompt, right, [wrong[place] for place in rng.permutation(4)[:3]]


def _sentence(words: Sequence[str]) -> str:
    return " ".join(words).capitalize() + "."


def _ties(rng: np.random.Generator) -> list[LabelledItem]:
    """Prompts with several right answers, beside a like prompt with one."""
    items: list[LabelledItem] = []
    asked: set[str] = set()
    while len(asked) < 20:
        kinds = [list(KINDS)[place] for place in rng.permutation(len(KINDS))]
        kind, others = kinds[0], [str(rng.choice(KINDS[other])) for other in kinds[1:4]]
        members = [KINDS[kind][place] for place in rng.permutation(6)[:4]]
        initial = next(word for word in members if sum(other[0] == word[0] for other in KINDS[kind]) == 1)
        one = f"Name {kind} that begins with the letter {initial[0].upper()}."
        if one in asked:
            continue
        asked.add(one)
        wrong = tuple(_styled(rng, word) for word in others)
        items.append(LabelledItem(one, (_styled(rng, initial),), wrong, "ties", f"ref:{len(asked)}"))
        answers = tuple(_styled(rng, word) for word in members)
        items.append(
            LabelledItem(f"Name {kind}. Any will do ({len(asked)}).", answers, wrong, "ties", f"tied:{len(asked)}")
        )
    return items

"""What is cut and what is dropped, in token counts."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftree.data.rows.faults import RowFault
from preftree.data.tokens.budgets import Budgets, Fit, Truncation, fit, too_long
from preftree.errors import ConfigError

limits = st.none() | st.integers(2, 40)


@pytest.mark.parametrize(
    ("truncation", "prompt", "responses", "budgets", "expected"),
    [
        ("drop", 10, [5, 9], Budgets(), Fit(0, (5, 9))),
        ("drop", 10, [5, 9], Budgets(max_length=15), Fit(0, (5, 0))),
        ("drop", 10, [5, 9], Budgets(max_response_length=8), Fit(0, (5, 0))),
        ("trim_prompt", 10, [5, 9], Budgets(max_length=15), Fit(4, (5, 9))),  # room for the longer of the two
        ("trim_prompt", 10, [5, 9], Budgets(max_prompt_length=3), Fit(7, (5, 9))),
        ("trim_prompt", 10, [5, 9], Budgets(max_length=10), Fit(5, (5, 0))),  # 9 leaves 1: the start, and no prompt
        ("trim_prompt", 10, [5, 9], Budgets(max_response_length=8, max_length=14), Fit(1, (5, 0))),
        ("trim_prompt", 1, [5], Budgets(max_length=6), Fit(0, (5,))),
        ("trim_response", 10, [5, 9], Budgets(max_length=17), Fit(0, (5, 7))),
        ("trim_response", 10, [5, 9], Budgets(max_length=11), Fit(0, (1, 1))),
        ("trim_response", 10, [5, 9], Budgets(max_response_length=2, max_length=17), Fit(0, (2, 2))),
    ],
)
def test_by_hand(truncation: Truncation, prompt: int, responses: list[int], budgets: Budgets, expected: Fit) -> None:
    assert fit(prompt, responses, start=1, budgets=budgets, truncation=truncation) == expected


@pytest.mark.parametrize(
    ("truncation", "budgets", "sentence"),
    [
        ("drop", Budgets(max_prompt_length=9), "'prompt' makes 10 tokens, over max_prompt_length 9"),
        ("drop", Budgets(max_length=10), "'prompt' makes 11 tokens, over max_length 10"),
        ("trim_response", Budgets(max_prompt_length=9), "over max_prompt_length 9"),
        ("trim_response", Budgets(max_length=10), "over max_length 10"),
        ("trim_prompt", Budgets(max_prompt_length=1), "'prompt' makes 2 tokens, over max_prompt_length 1"),
    ],
)
def test_a_prompt_that_cannot_fit(truncation: Truncation, budgets: Budgets, sentence: str) -> None:
    with pytest.raises(RowFault, match=sentence) as caught:
        fit(10, [5], start=1, budgets=budgets, truncation=truncation)
    assert (caught.value.fault, caught.value.field) == ("too_long", "prompt")


def test_a_response_that_cannot_fit_names_the_limit_it_breaks() -> None:
    budgets = Budgets(max_length=12, max_response_length=8)
    assert "'chosen' makes 9 tokens, over max_response_length 8" in too_long("chosen", 10, 9, budgets).message
    assert "'chosen' makes 13 tokens, over max_length 12" in too_long("chosen", 10, 3, budgets).message


@given(
    prompt=st.integers(1, 60),
    responses=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    start=st.integers(0, 1),
    budgets=st.builds(Budgets, limits, limits, limits),
    truncation=st.sampled_from(get_args(Truncation)),
)
def test_what_is_kept_fits_and_nothing_is_cut_in_vain(
    prompt: int, responses: list[int], start: int, budgets: Budgets, truncation: Truncation
) -> None:
    def fits(prompt: int, response: int) -> bool:
        return (
            (budgets.max_length is None or prompt + response <= budgets.max_length)
            and (budgets.max_prompt_length is None or prompt <= budgets.max_prompt_length)
            and (budgets.max_response_length is None or response <= budgets.max_response_length)
        )

    try:
        kept = fit(prompt, responses, start=start, budgets=budgets, truncation=truncation)
    except RowFault:
        least = min(prompt, start + 1) if truncation == "trim_prompt" else prompt
        assert not fits(least, 1)
        return
    left = prompt - kept.cut_prompt
    for size, taken in zip(responses, kept.kept, strict=True):
        assert 0 <= taken <= size
        if taken:
            assert fits(left, taken) and left >= min(prompt, start + 1)
            if truncation != "trim_response":
                assert taken == size
        else:
            least = min(prompt, start + 1) if truncation == "trim_prompt" else prompt
            assert not fits(least, size) and truncation != "trim_response"
    if truncation != "trim_prompt":
        assert kept.cut_prompt == 0
    elif kept.cut_prompt and any(kept.kept):
        assert not fits(left + 1, max(kept.kept))
    for size, taken in zip(responses, kept.kept, strict=True):
        if truncation == "trim_response" and taken < size:
            assert not fits(left, taken + 1)


@pytest.mark.parametrize("field", ["max_length", "max_prompt_length", "max_response_length"])
def test_a_budget_must_leave_room(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} must be at least"):
        Budgets(**{field: 0})

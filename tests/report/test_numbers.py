"""Ticks are round and inside the axis; numbers are written as a reader expects them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from preftree.report.numbers import (
    Axis,
    Kind,
    duration,
    fit_axis,
    fixed,
    percent,
    show,
    signed,
    size,
    typeset,
    write_tick,
)


def axis(low: float, high: float, kind: Kind = "linear") -> Axis:
    return Axis(float(low), float(high), kind)


def test_places_on_the_three_scales() -> None:
    assert axis(2, 6).place(3.0) == 0.25
    assert axis(0, 16, "sqrt").place(4.0) == 0.5
    assert axis(0.01, 100, "log").place(1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        (axis(0, 1), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (axis(-16.9, 0.9), ["−15", "−10", "−5", "0"]),
        (axis(0, 1e-6), ["0", "2e−7", "4e−7", "6e−7", "8e−7", "1e−6"]),
        (axis(0, 1e-3), ["0", "2e−4", "4e−4", "6e−4", "8e−4", "1e−3"]),
        (axis(0, 372), ["0", "100", "200", "300"]),
        (axis(9000, 12000), ["9,000", "10,000", "11,000", "12,000"]),
        (axis(0, 5, "sqrt"), ["0", "0.25", "1", "2", "4"]),
        (axis(0.02, 300, "log"), ["0.1", "1", "10", "100"]),
        (axis(0.4, 4, "log"), ["0.5", "1", "2"]),
    ],
)
def test_ticks(where: Axis, wanted: list[str]) -> None:
    assert [tick.text for tick in where.ticks()] == wanted


@pytest.mark.parametrize("kind", ["linear", "sqrt", "log"])
def test_any_range_has_ticks_inside_that_differ(kind) -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        low, span = 10.0 ** rng.uniform(-6, 6), 10.0 ** rng.uniform(-3, 3)
        made = fit_axis([low, low * (1 + span)], kind)
        ticks = made.ticks()
        assert 1 <= len(ticks) <= 9
        assert all(-1e-9 <= tick.at <= 1 + 1e-9 for tick in ticks)
        assert [tick.at for tick in ticks] == sorted(tick.at for tick in ticks)
        if kind == "linear" and span > 0.01:
            assert len({tick.text for tick in ticks}) == len(ticks) >= 2


def test_axes_show_their_values_and_keep_the_zero_of_what_cannot_be_negative() -> None:
    assert fit_axis([0.1, 1.0]).low >= 0
    made = fit_axis([-3.0, 7.0], include=[9.0])
    assert made.low < -3 and made.high > 9
    assert fit_axis([5.0, 5.0]).low < 5 < fit_axis([5.0, 5.0]).high
    assert fit_axis([0.0, 0.0]).high > 0
    assert fit_axis([0.0, 4.0], "log").low > 0


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, "none"),
        (True, "yes"),
        (12345, "12,345"),
        (-7, "−7"),
        (0.0, "0"),
        (0.69314718, "0.6931"),
        (-16.0, "−16"),
        (12345.6, "12,346"),
        (1e-6, "1e−6"),
        (2.5e9, "2.5e9"),
        (math.nan, "not a number"),
        (-math.inf, "−infinite"),
        ("dpo", "dpo"),
    ],
)
def test_figures(value: object, wanted: str) -> None:
    assert show(value) == wanted


def test_other_forms() -> None:
    assert percent(0.8125) == "81.2\u00a0%" and percent(math.nan) == "not a number"
    assert [signed(2.0), signed(-2.0), signed(0.0)] == ["+2", "−2", "0"]
    assert [fixed(1.0126, 3), fixed(-6.0, 2), fixed(0.5, 1, sign=False)] == ["+1.013", "−6.00", "0.5"]
    assert [duration(9.04), duration(781.0), duration(7380.0)] == ["9.0 s", "13 min 01 s", "2 h 03 min"]
    assert [size(900), size(4096), size(3 << 30)] == ["900 bytes", "4.0 KiB", "3.0 GiB"]
    assert typeset("lost -6.0 nats, step-3, 1e-6, <-1") == "lost −6.0 nats, step-3, 1e-6, <−1"
    assert write_tick(-0.0, 0.5) == "0"

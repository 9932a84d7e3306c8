"""Drawings: hand-computed places, what is left out, what hovering says."""

from __future__ import annotations

import math

import pytest

from preftree.report.charts import Chart, Level, Line, draw_chart, thin


def test_means_over_equal_stretches_keep_the_extremes() -> None:
    points = [(float(step), float(value)) for step, value in enumerate([1, 3, 5, 7, 100], 1)]
    means, bands, stretch = thin(points, most=3)
    assert stretch == 2
    assert means == [(1.5, 2.0), (3.5, 6.0), (5.0, 100.0)]
    assert bands == [(1.0, 3.0), (5.0, 7.0), (100.0, 100.0)]
    assert thin(points, most=5) == (points, [(y, y) for _, y in points], 1)


def test_values_that_are_no_numbers_are_left_out_of_means() -> None:
    points = [(1.0, math.nan), (2.0, 4.0), (3.0, math.inf), (4.0, math.nan)]
    assert thin(points, most=2) == ([(2.0, 4.0)], [(4.0, 4.0)], 2)


def test_places_in_the_box() -> None:
    drawing = draw_chart(Chart("t", [Line("a", [(0.0, 0.0), (5.0, 47.0), (10.0, 94.0)], "main")]))
    assert drawing is not None
    # From 0, which figures that cannot be negative keep, to 94 and six hundredths more: 99.64.
    assert drawing.strokes[0].path == "M0 1000L500 528.3L1000 56.6"
    assert drawing.strokes[0].dots == ""
    assert [tick.text for tick in drawing.y_ticks] == ["0", "20", "40", "60", "80"]
    assert drawing.y_ticks[0].at == 1.0
    assert [tick.text for tick in drawing.x_ticks] == ["0", "2", "4", "6", "8", "10"]


def test_points_bands_and_levels() -> None:
    line = Line("a", [(0.0, 1.0), (1.0, 2.0)], "chosen", "both", band=[(0.5, 1.5), (1.5, 2.5)])
    drawing = draw_chart(Chart("t", [line], levels=[Level(1.2, "near"), Level(900.0, "far")]))
    assert drawing is not None
    assert drawing.strokes[0].dots.count("h0") == 2
    assert drawing.strokes[0].band.endswith("Z") and drawing.strokes[0].band.count("L") == 3
    assert [level.text for level in drawing.levels] == ["near"]
    assert drawing.data["series"][0]["points"][0][3] == "1  (0.5 to 1.5)"


def test_what_a_scale_cannot_show_is_left_out() -> None:
    points = [(0.0, 0.0), (1.0, 10.0), (2.0, math.nan), (3.0, 100.0)]
    drawing = draw_chart(Chart("t", [Line("a", points, "main")], y_kind="log"))
    assert drawing is not None
    assert [point[2] for point in drawing.data["series"][0]["points"]] == ["1", "3"]
    assert draw_chart(Chart("t", [Line("a", [(0.0, math.nan)], "main")])) is None
    assert draw_chart(Chart("t", [])) is None


@pytest.mark.parametrize("points", [[(3.0, 7.0)], [(0.0, 0.0)], [(1.0, 5.0), (1.0, 5.0)]])
@pytest.mark.parametrize("kind", ["linear", "sqrt", "log"])
def test_a_single_place_can_be_drawn(points, kind) -> None:
    drawing = draw_chart(Chart("t", [Line("a", points, "main", "dots")], x_kind=kind))
    if kind == "log" and points[0][0] == 0:
        assert drawing is None
    else:
        assert drawing is not None
        assert "nan" not in drawing.strokes[0].dots


def test_the_legend_names_each_line_once() -> None:
    lines = [
        Line("a", [(0.0, 0.0)], "run-0"),
        Line("a", [(1.0, 1.0)], "run-0"),
        Line("b", [(1.0, 2.0)], "run-1", listed=False),
    ]
    drawing = draw_chart(Chart("t", lines))
    assert drawing is not None
    assert drawing.legend == [("a", "run-0", "line")]

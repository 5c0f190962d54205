"""Charts: ticks at round numbers, curves where their values are, one colour per name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stages.data.class_colours import class_colours
from stages.data.contact_sheets import MARGIN
from stages.data.curve_plots import CHART_SIZE, Chart, choose_ticks, format_number, render_charts


def find_pixels(picture: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the (x, y) of the pixels of curve `number`, counted from 1."""
    colour = [round(0.72 * value) for value in class_colours([number])[0].tolist()]
    y, x = np.nonzero((picture == colour).all(axis=2))
    return x, y


def test_a_curve_is_where_its_values_are():
    picture = render_charts([Chart("loss", "epoch", {"a": [(1, 0.0), (2, 1.0), (3, 0.5)]})])
    assert picture.shape == (CHART_SIZE[0] + 2 * MARGIN, CHART_SIZE[1] + 2 * MARGIN, 3)
    x, y = find_pixels(picture, 1)
    assert x[y.argmax()] < x.min() + 8, "the lowest value comes first"
    assert abs(x[y.argmin()] - (x.min() + x.max()) / 2) < 8, "the highest is in the middle"
    assert abs(y[x.argmax()] - (y.min() + y.max()) / 2) < 8, "the last is half as high"
    # The axis goes from -0.06 to 1.06 over 150 pixels, so 0 and 1 are 134 apart, and points have a radius of 3.
    assert abs(y.max() - y.min() - 134 - 6) <= 2 and abs(y.min() - (MARGIN + 26 + 8 - 3)) <= 2


def test_a_curve_has_the_same_colour_in_all_charts_and_a_legend():
    charts = [Chart("loss", "epoch", {"a": [(1, 1), (2, 2)], "b": [(1, 2), (2, 1)]}),
              Chart("map", "epoch", {"b": [(1, 2), (2, 1)]})]
    picture = render_charts(charts, heading="two networks")
    assert picture.shape[1] > 2 * CHART_SIZE[1]
    middle = MARGIN + CHART_SIZE[1]
    assert (find_pixels(picture, 1)[0] < middle).all() and (find_pixels(picture, 2)[0] > middle).any()
    assert picture.shape[0] > render_charts(charts[1:], heading="one").shape[0], "the legend needs a line"


@pytest.mark.parametrize("values", [[], [(1, math.nan)], [(1, 2.0)], [(1, 0.0), (2, 0.0)], [(1, 3), (2, math.inf)]])
def test_charts_of_few_or_equal_values_are_drawn(values):
    assert render_charts([Chart("loss", "epoch", {"a": values})]).shape[0] == CHART_SIZE[0] + 2 * MARGIN


def test_no_chart_is_an_error():
    with pytest.raises(ValueError, match="without charts"):
        render_charts([])


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 20, [5, 10, 15, 20]), (-0.3, 0.3, [-0.2, 0, 0.2]), (2, 2, [2])])
def test_ticks_are_round_numbers(low, high, expected):
    assert choose_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.25, "0.25"), (12000, "12k"), (0.0003, "3e-4"), (1.5, "1.5"),
                                            (2.5e9, "2.5e9"), (-0.00012, "-1.2e-4")])
def test_numbers_are_short(value, text):
    assert format_number(value) == text

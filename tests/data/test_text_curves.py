"""Curves drawn as text: width, characters, the place of the points, and legends."""

from __future__ import annotations

import re

import pytest

from stages.data.curve_plots import Chart
from stages.data.text_curves import render_text_charts

RISING = Chart("loss", "epoch", {"cam": [(1.0, 0.0), (2.0, 0.5), (3.0, 1.0)]})
TWO = Chart("loss", "epoch", {"one": [(1.0, 0.0), (9.0, 1.0)], "two": [(1.0, 1.0), (9.0, 0.0)]})


def plot_rows(text: str, side: str = "|+") -> list[str]:
    """Return what is right of the vertical axis, without the horizontal one."""
    rows = [re.split(f"[{re.escape(side)}]", line, maxsplit=1) for line in text.splitlines()]
    return [row[1] for row in rows if len(row) == 2 and not set(row[1]) <= {"-"}]


@pytest.mark.parametrize("columns", [24, 40, 80])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_is_wider_than_the_terminal(columns: int, unicode: bool) -> None:
    text = render_text_charts([RISING, TWO], columns, unicode=unicode)
    widths = [len(line) for line in text.splitlines()]
    assert max(widths) == columns
    assert text.isascii() != unicode


def test_a_rising_line_ends_at_the_top_right_and_a_falling_one_below() -> None:
    rows = plot_rows(render_text_charts([RISING], 40, height=5, unicode=False))
    assert len(rows) == 5
    assert rows[0].rindex("*") == max(row.rindex("*") for row in rows) and rows[-1].index("*") == 0
    assert [row.index("*") for row in rows] == sorted((row.index("*") for row in rows), reverse=True)


def test_braille_dots_are_at_the_points() -> None:
    chart = Chart("x", "step", {"cam": [(0.0, 0.0), (1.0, 0.0), (2.0, 1.0)]})
    lines = render_text_charts([chart], 12, height=1).splitlines()
    # From the lowest left dot (bit 0x40) to the highest right one (bit 0x08).
    dots = [ord(character) - 0x2800 for character in lines[1] if 0x2800 < ord(character) <= 0x28FF]
    assert dots[0] & 0x40 and dots[-1] & 0x08 and not dots[0] & 0x01


def test_several_networks_have_marks_or_colours_and_a_legend() -> None:
    text = render_text_charts([TWO], 40)
    assert text.splitlines()[:2] == ["* one", "+ two"]
    assert "\x1b" not in text and "*" in text.splitlines()[5]
    colourful = render_text_charts([TWO], 40, colour=True)
    assert colourful.count("\x1b[36m") > 5 and colourful.count("\x1b[33m") > 5
    assert "*" not in colourful


def test_values_that_are_not_finite_are_left_out() -> None:
    chart = Chart("loss", "epoch", {"cam": [(1.0, 1.0), (2.0, float("nan")), (3.0, float("inf")), (4.0, 2.0)]})
    assert "*" in render_text_charts([chart], 40, unicode=False)
    nothing = Chart("loss", "epoch", {"cam": [(1.0, float("nan"))]})
    assert "no finite values" in render_text_charts([nothing], 40)


def test_a_single_point_and_equal_values_are_drawn() -> None:
    for points in ([(1.0, 0.5)], [(1.0, 0.5), (2.0, 0.5)], [(1.0, 0.0)]):
        assert "*" in render_text_charts([Chart("loss", "epoch", {"cam": points})], 30, unicode=False)

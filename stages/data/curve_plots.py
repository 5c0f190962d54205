"""Plot curves, one chart per quantity, in the style of the contact sheets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from stages.data.class_colours import class_colours
from stages.data.contact_sheets import (
    GAP,
    INK_COLOUR,
    MARGIN,
    PALE_INK_COLOUR,
    PANEL_COLOUR,
    PAPER_COLOUR,
    TEXT_FONT_SIZE,
    TITLE_FONT_SIZE,
    TITLE_LINE_HEIGHT,
    Colour,
    fit_text,
    load_font,
    measure_text,
    render_legend,
)

CHART_SIZE = (220, 340)  # height and width in pixels
CHARTS_PER_LINE = 3
_X_AXIS_SPACE, _TICK = 44, 4
_LINE_WIDTH, _POINT_RADIUS = 2, 3
_MAX_MARKED_POINTS = 40
_NUM_TICKS = 5


@dataclass(frozen=True)
class Chart:
    """A chart: its title, the label of the horizontal axis, and the curves, each a list of points (x, y), by name."""

    title: str
    x_label: str
    curves: Mapping[str, Sequence[tuple[float, float]]]


def render_charts(charts: Sequence[Chart], *, heading: str = "") -> np.ndarray:
    """Render charts in lines of up to three, as (H, W, 3) uint8, with one legend of the names of all curves.

    A curve has the same colour in all charts. Values that are not finite are left out. Raises ValueError if there are
    no charts.
    """
    if not charts:
        raise ValueError("can't draw a plot without charts")
    names = list(dict.fromkeys(name for chart in charts for name in chart.curves))
    colours = {name: _darken(colour) for name, colour in zip(names, class_colours(range(1, len(names) + 1)).tolist(),
                                                             strict=True)}
    pictures = [_render_chart(chart, colours) for chart in charts]
    per_line = min(CHARTS_PER_LINE, len(pictures))
    height, width = pictures[0].shape[:2]
    num_lines = -(-len(pictures) // per_line)
    sheet_width = 2 * MARGIN + per_line * (width + GAP) - GAP
    legend = render_legend([(name, colours[name]) for name in names] if len(names) > 1 else [], sheet_width)
    top = MARGIN + (TITLE_LINE_HEIGHT if heading else 0)
    sheet = Image.new("RGB", (sheet_width, top + num_lines * (height + GAP) + len(legend) + MARGIN - GAP),
                      PAPER_COLOUR)
    fitted = fit_text(heading, TITLE_FONT_SIZE, sheet_width - 2 * MARGIN)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN - 4), fitted, fill=PALE_INK_COLOUR,
                               font=load_font(TITLE_FONT_SIZE, fitted))
    for index, picture in enumerate(pictures):
        line, column = divmod(index, per_line)
        sheet.paste(Image.fromarray(picture), (MARGIN + column * (width + GAP), top + line * (height + GAP)))
    if len(legend):
        sheet.paste(Image.fromarray(legend), (0, top + num_lines * (height + GAP) - GAP))
    return np.asarray(sheet)


def choose_ticks(low: float, high: float, count: int = _NUM_TICKS) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of 10 apart) from `low` to `high`."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= span)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(position * step, 12) for position in range(first, last + 1)]


def format_number(value: float) -> str:
    """Return a number with up to four significant digits: 0.0003 is 3e-4, 12000 is 12k."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e4:
        if 1e4 <= abs(value) < 1e6 and value % 1000 == 0:
            return f"{value / 1000:g}k"
        digits, _, exponent = f"{value:.3g}".partition("e") if "e" in f"{value:.3g}" else f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def _darken(colour: Sequence[int]) -> Colour:
    """Return a class colour dark enough for a thin line on paper."""
    red, green, blue = (round(0.72 * value) for value in colour)
    return red, green, blue


def _render_chart(chart: Chart, colours: Mapping[str, Colour]) -> np.ndarray:
    """Render one chart: title, axes with ticks, and curves."""
    curves = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in chart.curves.items()}
    points = [point for points in curves.values() for point in points]
    x_range, y_range = find_axis_range([x for x, _ in points]), find_axis_range([y for _, y in points], padding=0.06)
    y_ticks = choose_ticks(*y_range)
    left = 2 * _TICK + round(max(measure_text(format_number(tick), TEXT_FONT_SIZE) for tick in y_ticks))
    area = (left, TITLE_LINE_HEIGHT, CHART_SIZE[1] - 10, CHART_SIZE[0] - _X_AXIS_SPACE)
    picture = Image.new("RGB", (CHART_SIZE[1], CHART_SIZE[0]), PAPER_COLOUR)
    draw = ImageDraw.Draw(picture)
    draw.text((left, 4), fit_text(chart.title, TITLE_FONT_SIZE, CHART_SIZE[1] - left), fill=INK_COLOUR,
              font=load_font(TITLE_FONT_SIZE))
    _draw_axes(draw, area, (x_range, y_range), y_ticks, chart.x_label)
    for name, curve in curves.items():
        _draw_curve(draw, [_place(point, area, x_range, y_range) for point in curve], colours[name])
    return np.asarray(picture)


def find_axis_range(values: Sequence[float], padding: float = 0.0) -> tuple[float, float]:
    """Return the range of an axis. It is never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = padding * (high - low) or (0.5 * abs(high) or 0.5 if high == low else 0.0)
    return low - margin, high + margin


def _place(point: tuple[float, float], area: tuple[int, int, int, int], x_range: tuple[float, float],
           y_range: tuple[float, float]) -> tuple[float, float]:
    """Return the pixel (x, y) of a point."""
    left, top, right, bottom = area
    return (left + (point[0] - x_range[0]) / (x_range[1] - x_range[0]) * (right - left),
            bottom - (point[1] - y_range[0]) / (y_range[1] - y_range[0]) * (bottom - top))


def _draw_axes(draw: ImageDraw.ImageDraw, area: tuple[int, int, int, int],
               ranges: tuple[tuple[float, float], tuple[float, float]], y_ticks: Sequence[float],
               x_label: str) -> None:
    left, top, right, bottom = area
    draw.rectangle((left, top, right, bottom), fill=PANEL_COLOUR)
    font = load_font(TEXT_FONT_SIZE)
    for tick in y_ticks:
        y = _place((ranges[0][0], tick), area, *ranges)[1]
        draw.line((left - _TICK, y, right, y), fill=PAPER_COLOUR)
        draw.text((left - _TICK - 2, y), format_number(tick), fill=PALE_INK_COLOUR, font=font, anchor="rm")
    for tick in (tick for tick in choose_ticks(*ranges[0]) if tick == int(tick)):
        x = _place((tick, ranges[1][0]), area, *ranges)[0]
        draw.line((x, bottom, x, bottom + _TICK), fill=PALE_INK_COLOUR)
        draw.text((x, bottom + _TICK + 1), format_number(tick), fill=PALE_INK_COLOUR, font=font, anchor="ma")
    draw.line((left, top, left, bottom), fill=PALE_INK_COLOUR)
    draw.line((left, bottom, right, bottom), fill=PALE_INK_COLOUR)
    draw.text(((left + right) / 2, bottom + _TICK + 18), x_label, fill=INK_COLOUR, font=font, anchor="ma")


def _draw_curve(draw: ImageDraw.ImageDraw, pixels: Sequence[tuple[float, float]], colour: Colour) -> None:
    """Draw a curve; a few points are marked, since the steps between them are epochs."""
    if len(pixels) > 1:
        draw.line(list(pixels), fill=colour, width=_LINE_WIDTH, joint="curve")
    for x, y in pixels if len(pixels) <= _MAX_MARKED_POINTS else ():
        draw.ellipse((x - _POINT_RADIUS, y - _POINT_RADIUS, x + _POINT_RADIUS, y + _POINT_RADIUS), fill=colour)

"""Draw curves as text for a terminal: braille dots, or ASCII marks. Charts in, lines of text out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

from stages.data.curve_plots import Chart, choose_ticks, find_axis_range, format_number

MARKS = "*+xo#@%&=~"
_BRAILLE = 0x2800
# Bits of the dots of a braille character by row and column, as Unicode orders them.
_DOT_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_ANSI_COLOURS = (36, 33, 35, 32, 34, 31)
_AXES = {True: ("\u2524", "\u2502", "\u2514", "\u2500"), False: ("+", "|", "+", "-")}
_MIN_PLOT_WIDTH = 8

Cell = tuple[int, int]


def render_text_charts(charts: Sequence[Chart], columns: int, *, height: int = 7, unicode: bool = True,
                       colour: bool = False) -> str:
    """Render charts below each other, at most `columns` characters wide, and `height` lines of curves each.

    The curve of a single network is drawn in braille dots if `unicode`, those of several too if `colour` tells them
    apart. Other curves, such as the value of guessing ("NAME (chance)"), have a mark of their own, which the legend
    names. Values that are not finite are left out.
    """
    names = list(dict.fromkeys(name for chart in charts for name in chart.curves))
    is_single = all(name in (names[0], f"{names[0]} (chance)") for name in names)
    styles = {name: _Style(index, has_dots=unicode and (colour or (is_single and index == 0)),
                           colour=colour and len(names) > 1)
              for index, name in enumerate(names)}
    lines: list[str] = []
    if len(names) > 1:
        lines += [f"{styles[name].paint(styles[name].legend_mark)} {_shorten(name, columns - 2)}" for name in names]
    for chart in charts:
        lines += ["", *_render_chart(chart, styles, columns, height, unicode=unicode)]
    return "\n".join(line.rstrip() for line in lines).strip("\n")


class _Style:
    """How a curve looks: dots or marks, with or without an ANSI colour."""

    def __init__(self, index: int, *, has_dots: bool, colour: bool) -> None:
        self.has_dots = has_dots
        self.mark = MARKS[index % len(MARKS)]
        self.legend_mark = chr(_BRAILLE + 0x36) if has_dots else self.mark
        self._code = _ANSI_COLOURS[index % len(_ANSI_COLOURS)] if colour else None

    def paint(self, text: str) -> str:
        """Return text in the colour of the curve."""
        return text if self._code is None else f"\x1b[{self._code}m{text}\x1b[0m"


def _render_chart(chart: Chart, styles: Mapping[str, _Style], columns: int, height: int, *,
                  unicode: bool) -> list[str]:
    curves = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in chart.curves.items()}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return [_shorten(chart.title, columns), "  (no finite values)"]
    ranges = (find_axis_range([x for x, _ in points]), find_axis_range([y for _, y in points], padding=0.0))
    labels = _label_rows(ranges[1], height)
    margin = max(map(len, labels.values()))
    width = max(_MIN_PLOT_WIDTH, columns - margin - 2)
    cells: dict[Cell, tuple[str, str]] = {}
    for name, curve in curves.items():
        characters = _draw_curve(curve, ranges, width, height, styles[name])
        cells |= {cell: (name, character) for cell, character in characters.items()}
    tick, side, corner, base = _AXES[unicode]
    rows = [f"{labels.get(row, ''):>{margin}} {tick if row in labels else side}"
            + _join_cells([cells.get((row, column), ("", " ")) for column in range(width)], styles)
            for row in range(height)]
    return [_shorten(chart.title, columns), *rows, f"{'':{margin}} {corner}{base * width}",
            f"{'':{margin + 2}}{_label_columns(ranges[0], width, chart.x_label)}"]


def _join_cells(cells: Sequence[tuple[str, str]], styles: Mapping[str, _Style]) -> str:
    """Return a row of (name of the curve, character) pairs as text; neighbours of one curve share a colour sequence."""
    texts = [(name, "".join(character for _, character in group))
             for name, group in groupby(cells, lambda cell: cell[0])]
    return "".join(styles[name].paint(text) if name in styles else text for name, text in texts)


def _label_rows(y_range: tuple[float, float], height: int) -> dict[int, str]:
    """Return the labels of the vertical axis by row, the top row being 0."""
    low, high = y_range
    return {round((high - tick) / (high - low) * (height - 1)): format_number(tick)
            for tick in choose_ticks(low, high, max(2, height // 2))}


def _label_columns(x_range: tuple[float, float], width: int, name: str) -> str:
    """Return the line below the horizontal axis: its name, and whole numbers where there is room for them."""
    line = [" "] * width
    free_from = 0
    for tick in choose_ticks(*x_range, max(2, width // 10)):
        text = format_number(tick)
        column = round((tick - x_range[0]) / (x_range[1] - x_range[0]) * (width - 1))
        start = min(max(0, column - len(text) // 2), width - len(text))
        if tick == int(tick) and start >= free_from:
            line[start:start + len(text)] = text
            free_from = start + len(text) + 1
    label = f" {name}"
    start = next((start for start in range(width - len(label), -1, -1)
                  if not "".join(line[start:start + len(label) + 1]).strip()), None)
    if start is not None:
        line[start:start + len(label)] = label
    return "".join(line)


def _draw_curve(curve: Sequence[tuple[float, float]], ranges: tuple[tuple[float, float], tuple[float, float]],
                width: int, height: int, style: _Style) -> dict[Cell, str]:
    """Return the characters of a curve by (row, column)."""
    dots_down, dots_across = (4, 2) if style.has_dots else (1, 1)
    bits: dict[Cell, int] = {}
    for row, column in _trace(curve, ranges, width * dots_across, height * dots_down):
        cell = (row // dots_down, column // dots_across)
        bits[cell] = bits.get(cell, 0) | _DOT_BITS[row % dots_down][column % dots_across]
    return {cell: chr(_BRAILLE + pattern) if style.has_dots else style.mark for cell, pattern in bits.items()}


def _trace(curve: Sequence[tuple[float, float]], ranges: tuple[tuple[float, float], tuple[float, float]], width: int,
           height: int) -> list[Cell]:
    """Return the (row, column) of all dots on the lines between the points of a curve."""
    (left, right), (low, high) = ranges
    dots = [((high - y) / (high - low) * (height - 1), (x - left) / (right - left) * (width - 1)) for x, y in curve]
    traced = [(round(row), round(column)) for row, column in dots[:1]]
    for (row, column), (next_row, next_column) in pairwise(dots):
        num_steps = max(1, math.ceil(max(abs(next_row - row), abs(next_column - column))))
        traced += [(round(row + (next_row - row) * step / num_steps),
                    round(column + (next_column - column) * step / num_steps)) for step in range(1, num_steps + 1)]
    return traced


def _shorten(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[:max(0, columns - 3)]}..."

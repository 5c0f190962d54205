"""Figures as HTML that needs no script: positions in per cent, so that they fit any width, and a table of the numbers.

Runs differ by the shape of their marks as well as by colour. All names are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

MARKS = "●■▲◆▼★✚✖"
_NUM_ACCENTS = 8
_FEW_CLASSES = 12  # of more, the scale is above them too
_MISSING = "–"
_NUMBER = ' class="number"'
Curve = tuple[Sequence[float], Sequence[float]]
Values = tuple[np.ndarray, np.ndarray, np.ndarray]


def plot_class_bars(class_names: Sequence[str], runs: Mapping[str, Values]) -> str:
    """Return the IoU (C,) of classes per run with intervals (C,): (values, low, high) in [0, 1]; NaN is left out.

    Classes are sorted by the mean over runs, the highest first.
    """
    values = np.array([run[0] for run in runs.values()], dtype=np.float64).reshape(len(runs), -1)
    means = np.nan_to_num(np.nanmean(np.where(np.isnan(values).all(axis=0), 0, values), axis=0))
    order = np.argsort(-means, kind="stable")
    rows = "".join(f'<li><span class="row-name">{build_name(class_names[row])}</span>'
                   f'<span class="track" style="--runs:{len(runs)}">{_draw_class_marks(runs, row)}</span></li>'
                   for row in order)
    header = ["Class", *(f"{name}, {unit}" for name in runs for unit in ("IoU in %", "95 % interval"))]
    table = [[class_names[row], *(text for run in runs.values() for text in _format_class(run, row))] for row in order]
    scale = _draw_scale([0, 20, 40, 60, 80, 100], "%")
    return (f'<figure class="dots">{build_legend(list(runs))}<div class="dot-rows" role="img" aria-label="IoU of '
            f'{len(order)} classes for {escape(", ".join(runs), quote=True)}; the numbers are in the table below">'
            f'{scale if len(order) > _FEW_CLASSES else ""}<ul>{rows}</ul>{scale}</div></figure>'
            f'{build_table("IoU of each class", header, table)}')


def _draw_class_marks(runs: Mapping[str, Values], row: int) -> str:
    parts = []
    for position, (name, (values, low, high)) in enumerate(runs.items()):
        if np.isnan(values[row]):
            continue
        style = f"--run:var(--accent-{position % _NUM_ACCENTS + 1});top:{(position + 0.5) / len(runs):.1%}"
        if not (np.isnan(low[row]) or np.isnan(high[row])):
            parts.append(f'<span class="whisker" style="{style};left:{low[row]:.2%};'
                         f'width:{high[row] - low[row]:.2%}"></span>')
        title = escape(f"{name}: {' '.join(_format_class((values, low, high), row))}", quote=True)
        parts.append(f'<span class="mark" style="{style};left:{values[row]:.2%}" title="{title}">'
                     f"{MARKS[position % len(MARKS)]}</span>")
    return "".join(parts)


def _format_class(run: Values, row: int) -> tuple[str, str]:
    value, low, high = (100 * float(column[row]) for column in run)
    interval = _MISSING if np.isnan(low) or np.isnan(high) else f"{low:.1f} to {high:.1f}"
    return (_MISSING, _MISSING) if np.isnan(value) else (f"{value:.1f}", interval)


def plot_threshold_curves(curves: Mapping[str, tuple[Sequence[float], Sequence[float], float | None]]) -> str:
    """Return mean IoU in [0, 1] by threshold in [0, 1] per run: (thresholds, values, the chosen threshold or None)."""
    lines = {name: (list(thresholds), [100 * value for value in values])
             for name, (thresholds, values, _) in curves.items()}
    chosen = {name: point for name, (_, _, point) in curves.items() if point is not None}
    rows = [[f"{threshold:.2f}", *(_format_number(_find_value(line, threshold)) for line in lines.values())]
            for threshold in next(iter(lines.values()))[0]]
    return (plot_lines(lines, "background score", "mIoU in %", marked=chosen)
            + build_table("mIoU by background score", ["Background score", *lines], rows))


def plot_training_curves(nets: Mapping[str, Mapping[str, Curve]]) -> str:
    """Return one figure per quantity, with a line (steps, values) per network."""
    quantities = list(dict.fromkeys(name for columns in nets.values() for name in columns))
    figures = []
    for quantity in quantities:
        lines = {net: columns[quantity] for net, columns in nets.items() if quantity in columns}
        rows = [[net, f"{step:g}", _format_number(value)] for net, line in lines.items()
                for step, value in zip(*line, strict=True)]
        figures.append(f'<div class="small-figure"><h3>{escape(quantity)}</h3>{plot_lines(lines, "step", "")}'
                       f'{build_table(quantity, ["Network", "Step", quantity], rows)}</div>')
    return f'<div class="small-figures">{"".join(figures)}</div>'


def plot_lines(lines: Mapping[str, Curve], x_name: str, y_name: str, *,
               marked: Mapping[str, float] | None = None) -> str:
    """Return a figure with a line (x, y) per name, and a mark on each line: at `marked`, else at the last point."""
    finite = [(x, y) for xs, ys in lines.values() for x, y in zip(xs, ys, strict=True) if np.isfinite(y)]
    if not finite:
        return "<p>No values.</p>"
    x_ticks, y_ticks = (choose_ticks(min(column), max(column)) for column in zip(*finite, strict=True))
    paths, marks = [], []
    for position, (name, (xs, ys)) in enumerate(lines.items()):
        points = [(_scale(x, x_ticks), 1 - _scale(y, y_ticks)) for x, y in zip(xs, ys, strict=True) if np.isfinite(y)]
        colour = f"--run:var(--accent-{position % _NUM_ACCENTS + 1})"
        paths.append(f'<polyline style="{colour}" points="{" ".join(f"{x:.4f},{y:.4f}" for x, y in points)}"/>')
        x = marked.get(name) if marked else (xs[-1] if len(xs) else None)
        y = None if x is None else _find_value((xs, ys), x)
        if y is not None and np.isfinite(y):
            title = escape(f"{name}: {_format_number(y)} at {x:g}", quote=True)
            marks.append(f'<span class="mark" title="{title}" style="{colour};left:{_scale(x, x_ticks):.2%};'
                         f'top:{1 - _scale(y, y_ticks):.2%}">{MARKS[position % len(MARKS)]}</span>')
    label = escape(f"{y_name or 'values'} by {x_name} of {', '.join(lines)}; the numbers are in the table below",
                   quote=True)
    grid = "".join(f'<line x1="0" x2="1" y1="{1 - _scale(tick, y_ticks):.4f}" y2="{1 - _scale(tick, y_ticks):.4f}"/>'
                   for tick in y_ticks)
    y_labels = "".join(f'<span style="top:{1 - _scale(tick, y_ticks):.2%}">{tick:g}</span>' for tick in y_ticks)
    return (f'<figure class="lines">{build_legend(list(lines))}<p class="axis">{escape(y_name)}</p>'
            f'<div class="plot" role="img" aria-label="{label}">'
            f'<div class="y-labels" aria-hidden="true">{y_labels}</div>'
            '<div class="area"><svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">'
            f'<g class="grid">{grid}</g>{"".join(paths)}</svg>{"".join(marks)}</div>'
            f'{_draw_scale(x_ticks, "")}</div><p class="axis x-axis">{escape(x_name)}</p></figure>')


def choose_ticks(low: float, high: float) -> list[float]:
    """Return 3 to 7 round numbers whose first and last enclose [low, high]."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** np.floor(np.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 5)
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return [float(round(number * step, 12)) for number in np.arange(first, max(last, first + 1) + 1)]


def _scale(value: float, ticks: Sequence[float]) -> float:
    return (value - ticks[0]) / (ticks[-1] - ticks[0])


def _find_value(line: Curve, x: float) -> float | None:
    """Return y of the point of a line that is nearest to x; None without points."""
    xs, ys = line
    return float(ys[int(np.argmin(np.abs(np.asarray(xs, dtype=np.float64) - x)))]) if len(xs) else None


def _format_number(value: float | None) -> str:
    return _MISSING if value is None or not np.isfinite(value) else f"{value:.4g}"


def _draw_scale(ticks: Sequence[float], unit: str) -> str:
    spans = "".join(f'<span style="left:{_scale(tick, ticks):.2%}">{tick:g}{unit}</span>' for tick in ticks)
    return f'<div class="x-labels" aria-hidden="true">{spans}</div>'


def build_name(name: str) -> str:
    """Return the name of a row; a long one is cut off, and shown in full under the mouse and in the table."""
    return f'<span class="name" dir="auto" title="{escape(name, quote=True)}">{escape(name)}</span>'


def build_legend(names: Sequence[str]) -> str:
    """Return a list of names with their marks."""
    items = "".join(f'<li><span class="key" style="--run:var(--accent-{position % _NUM_ACCENTS + 1})" '
                    f'aria-hidden="true">{MARKS[position % len(MARKS)]}</span> '
                    f'<span dir="auto">{escape(name)}</span></li>'
                    for position, name in enumerate(names))
    return f'<figcaption><ul class="legend">{items}</ul></figcaption>'


def build_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts in a closed <details>; the first column names the rows.

    `title` is read by screen readers, which list the tables of a page by it.
    """
    head = "".join(f'<th scope="col"{"" if position == 0 else _NUMBER}>{escape(text)}</th>'
                   for position, text in enumerate(header))
    body = "".join(f'<tr><th scope="row" dir="auto">{escape(row[0])}</th>'
                   f'{"".join(f"<td{_NUMBER}>{escape(text)}</td>" for text in row[1:])}</tr>' for row in rows)
    return (f'<details class="numbers"><summary>Numbers</summary><div class="scroll" tabindex="0" role="region" '
            f'aria-label="Numbers: {escape(title, quote=True)}"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div></details>")

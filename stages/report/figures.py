"""Builds the sections with figures: scores, thresholds, confusion, co-occurrence, training curves and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from stages.report.page import Section
from stages.report.plot_matrices import plot_confusion, plot_cooccurrence
from stages.report.plots import plot_class_bars, plot_threshold_curves, plot_training_curves

_NOT_CURVES = ("epoch", "step", "seconds", "waited")
_FIRST = ("loss", "map")
_CHANCE_SUFFIX, _DEVIATION_SUFFIX = "_of_chance", "_of_chance_sd"
_QUANTITIES = {"map": "mean average precision", "lr": "learning rate"}


@dataclass(frozen=True)
class RunFigures:
    """What is plotted of a run; None and empty arrays are left out. IoU and intervals are shares in [0, 1], (C + 1,).

    `sweep` is (thresholds, mean IoU, chosen threshold or None), `matrix` (C + 1, C + 2) has the ignored pixels last.
    """

    title: str
    class_iou: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    matrix: np.ndarray | None = None
    sweep: tuple[Sequence[float], Sequence[float], float | None] | None = None


def build_sections(classes: Sequence[str], runs: Sequence[RunFigures], tags: Sequence[str], cooccurrence: np.ndarray,
                   logs: Mapping[str, Sequence[Mapping[str, Any]]], provenance: str) -> list[Section]:
    """Return the sections that have something to show. `classes` and `tags` are names 0..C, of which 0 may be empty."""
    names = [classes[0] or "(unlabelled)", *classes[1:]]
    parts = (_build_class_section(names, runs), _build_threshold_section(runs), _build_confusion_section(names, runs),
             _build_cooccurrence_section(tags, cooccurrence), _build_training_section(logs),
             Section("provenance", "How to reproduce", "The commands that made each run, from the first to the last.",
                     provenance) if provenance else None)
    return [part for part in parts if part is not None]


def _build_class_section(names: Sequence[str], runs: Sequence[RunFigures]) -> Section | None:
    """Return the bars of all runs for the classes that have pixels in one of them."""
    scored = [run for run in runs if run.class_iou is not None]
    if not scored:
        return None
    rows = np.flatnonzero(~np.isnan(np.array([run.class_iou for run in scored])).all(axis=0))
    bars = {run.title: tuple(_select(values, rows) for values in (run.class_iou, run.low, run.high)) for run in scored}
    return Section("classes", "IoU of each class", "Intersection over union with the ground truth, over all images. "
                   "Whiskers are 95 % intervals over resampled images.", plot_class_bars(
                       [names[row] for row in rows], bars))


def _select(values: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    return np.full(len(rows), np.nan) if values is None else np.asarray(values)[rows]


def _build_threshold_section(runs: Sequence[RunFigures]) -> Section | None:
    curves = {run.title: run.sweep for run in runs if run.sweep is not None}
    if not curves:
        return None
    return Section("thresholds", "Background score", "Mean IoU of CAMs as masks, for each constant background score. "
                   "The chosen score is the best on this ground truth, so its mean IoU is optimistic about other "
                   "images.", plot_threshold_curves(curves))


def _build_confusion_section(names: Sequence[str], runs: Sequence[RunFigures]) -> Section | None:
    """Return one matrix per run, of which the first is open; only classes with pixels have rows."""
    matrices = [(run.title, run.matrix[:, :len(names)]) for run in runs if run.matrix is not None and run.matrix.any()]
    if not matrices:
        return None
    parts = []
    for title, matrix in matrices:
        rows = np.flatnonzero(matrix.any(axis=0) | matrix.any(axis=1))
        figure = plot_confusion([names[row] for row in rows], matrix[np.ix_(rows, rows)], title)
        parts.append(f'<details class="figure-of-run"{"" if parts else " open"}><summary>{escape(title)}</summary>'
                     f"{figure}</details>")
    return Section("confusion", "Confused classes", "Rows are the classes of the ground truth, columns those of the "
                   "run.", "".join(parts))


def _build_cooccurrence_section(classes: Sequence[str], counts: np.ndarray) -> Section | None:
    if not counts.any():
        return None
    rows = np.flatnonzero(counts.any(axis=1))
    return Section("cooccurrence", "Classes that appear together", "Number of images that have both tags; the diagonal "
                   "counts the images of a class.", plot_cooccurrence(
                       [classes[row + 1] for row in rows], counts[np.ix_(rows, rows)]))


def _build_training_section(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Section | None:
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for name, lines in logs.items():
        for quantity, points in build_columns(lines).items():
            base, is_chance, _ = quantity.partition(_CHANCE_SUFFIX)
            line = f"{name} (chance)" if is_chance else name
            curves.setdefault(line, {})[_QUANTITIES.get(base, base)] = points
    if not curves:
        return None
    return Section("training", "Training", "What the logs of the networks recorded after each epoch.",
                   plot_training_curves(curves))


def build_columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Return (steps, values) of each quantity of a training log, loss first, without times and constants."""
    names = dict.fromkeys(name for line in lines for name, value in line.items()
                          if not (name in _NOT_CURVES or name.endswith(_DEVIATION_SUFFIX)) and _is_number(value))
    ordered = [*(name for name in _FIRST if name in names), *(name for name in names if name not in _FIRST)]
    columns = {}
    for name in ordered:
        points = [(float(line["step"]), float(line[name])) for line in lines if _is_number(line.get(name))]
        columns[name] = ([step for step, _ in points], [value for _, value in points])
    return columns


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))

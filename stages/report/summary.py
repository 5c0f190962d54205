"""Words and numbers at the top of the page: what is compared, and the mean IoU of each run with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stages.kernels.paired_bootstrap import compute_interval, compute_iou, compute_mean_iou, resample_counts
from stages.report.score_images import RunScore
from stages.report.score_runs import RunScores

_MAX_NAMED = 5
_MINUS = "\N{MINUS SIGN}"
_KINDS = {"cams": "CAMs", "masks": "masks"}


class Interval(NamedTuple):
    """95 % intervals of a run: of its mean IoU, of its difference from the first run, and per class (C + 1,)."""

    mean: tuple[float, float]
    difference: tuple[float, float]
    class_low: np.ndarray
    class_high: np.ndarray


Intervals = Mapping[int, Interval]


def compute_intervals(scores: Mapping[int, RunScore], draws: int, seed: int) -> dict[int, Interval]:
    """Return the bootstrap intervals of runs by their positions; all runs are resampled with the same images.

    Empty without draws or images.
    """
    intervals: dict[int, Interval] = {}
    first_means = None
    for position, score in scores.items():
        if not draws or not score.image_ids:
            continue
        totals = resample_counts(score.stack_counts(), draws, seed)
        means = compute_mean_iou(totals)
        first_means = means if first_means is None else first_means
        bounds = np.array([compute_interval(column) for column in compute_iou(totals).T]).reshape(-1, 2)
        intervals[position] = Interval(compute_interval(means), compute_interval(means - first_means), *bounds.T)
    return intervals


def build_summary(num_images: int, num_shown: int, num_with_truth: int, titles: Sequence[str]) -> list[str]:
    """Return sentences that say what the page is about."""
    runs = f"{len(titles)} runs over the same {num_images} images" if len(titles) > 1 else (
        f"One run over {num_images} images" if titles else f"{num_images} images of an index")
    truth = "without ground truth" if not num_with_truth else "all with ground truth" if (
        num_with_truth == num_images) else f"{num_with_truth} of them with ground truth"
    shown = "All are shown below." if num_shown == num_images else (
        f"The scores are over all images; {num_shown} of them are shown below.")
    return [f"{runs}, {truth}.", shown]


def build_score_rows(runs: Sequence[tuple[str, str, str]], scores: RunScores,
                     intervals: Intervals) -> list[dict[str, str]]:
    """Return a row of the table of runs for each (title, kind, background): texts by column."""
    rows: list[dict[str, str]] = []
    first = None
    for position, (title, kind, background) in enumerate(runs):
        row = {"title": title, "kind": _KINDS[kind], "background": background}
        score, interval = scores.scores.get(position), intervals.get(position)
        mean = None if score is None else score.compute_mean_iou()
        if mean is not None:
            row["mean"] = f"{100 * mean:.1f}"
            row["interval"] = "" if interval is None else _format_interval(interval.mean)
            if first is None:
                first = mean
            else:
                row["difference"] = f"{_round(mean - first):+.1f}".replace("-", _MINUS)
                row["difference_interval"] = "" if interval is None else _format_interval(interval.difference)
        rows.append(row)
    return rows


def _format_interval(bounds: tuple[float, float]) -> str:
    return " to ".join(f"{_round(bound):.1f}".replace("-", _MINUS) for bound in bounds)


def _round(share: float) -> float:
    """Return per cent with one decimal, without a negative zero."""
    return round(100 * share, 1) + 0.0


def join_names(names: Sequence[str]) -> str:
    """Return names as in a sentence: "a", "a and b", "a, b and c"; of more than five, the first and their number."""
    if len(names) > _MAX_NAMED:
        return f"{', '.join(names[:_MAX_NAMED])} and {len(names) - _MAX_NAMED} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))

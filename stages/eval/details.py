"""Scores of a run, or of several seeds of one method, from the counts of every image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from stages.eval.config import EvalConfig
from stages.eval.image_counts import ImageCounts, compute_image_mean_iou, sum_counts
from stages.eval.score import summarise_iou
from stages.kernels.calibration import Calibration
from stages.kernels.paired_bootstrap import compute_interval, compute_iou, compute_mean_iou, resample_counts

Interval = tuple[float | None, float | None]


class RunCounts(Protocol):
    """What was counted on the images of one run."""

    counts: ImageCounts
    boundary_counts: ImageCounts
    calibration: Calibration | None


Scores = Sequence[Sequence[RunCounts]]  # of every group, the counts of its seeds


@dataclasses.dataclass(frozen=True)
class Resampled:
    """Scores of a group in R samples of the images: mIoU (R,), and IoU per class (R, C). Seeds are averaged."""

    miou: np.ndarray
    iou: np.ndarray


def list_named_classes(classes: tuple[str, ...]) -> list[tuple[int, str]]:
    """Return (id, name) of the classes that are scored: without class 0 if it has no name."""
    return [(index, name) for index, name in enumerate(classes) if name]


def resample_group(config: EvalConfig, classes: tuple[str, ...], seeds: Sequence[RunCounts]) -> Resampled:
    """Return the scores of a group in samples of the images; groups with equal images get the same samples."""
    mious, ious = [], []
    scored = [index for index, _ in list_named_classes(classes)]
    for seed in seeds:
        totals = resample_counts(seed.counts.build_matrix(), config.draws, config.seed)[:, scored]
        mious.append(compute_mean_iou(totals, config.rule))
        ious.append(compute_iou(totals))
    return Resampled(np.mean(mious, axis=0), np.mean(ious, axis=0))


def build_run_scores(config: EvalConfig, classes: tuple[str, ...], seeds: Sequence[RunCounts],
                     sampled: Resampled) -> dict[str, Any]:
    """Return the interval of the mIoU and, as settings ask for, boundary IoU and calibration.

    Seeds are averaged, except that the reliability table is that of the first.
    """
    scores: dict[str, Any] = {"interval": list(format_interval(sampled.miou, config.interval)),
                              "interval_level": config.interval, "draws": config.draws, "seed": config.seed}
    if config.boundary:
        summaries = [summarise_iou(sum_counts(seed.boundary_counts.build_matrix()), classes, config.rule)
                     for seed in seeds]
        scores["boundary_miou"] = average([mean for mean, _ in summaries])
        scores["boundary_per_class"] = average_by_class([by_class for _, by_class in summaries])
        scores["boundary_width"] = config.boundary_width
    if seeds[0].calibration is not None:
        scores["calibration_error"] = average([seed.calibration.compute_expected_error() for seed in seeds
                                               if seed.calibration is not None])
        scores["reliability"] = [dataclasses.asdict(row) for row in seeds[0].calibration.list_bins()]
    return scores


def format_interval(values: np.ndarray, level: float) -> Interval:
    """Return the interval of values (R,), with None instead of NaN, as JSON has none."""
    low, high = compute_interval(values, level)
    return (None, None) if np.isnan(low) else (low, high)


def average(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if all are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def average_by_class(tables: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Return the mean of each class over several tables of values by class."""
    return {name: average([table[name] for table in tables]) for name in tables[0]}


def compute_group_image_miou(seeds: Sequence[RunCounts]) -> np.ndarray:
    """Return the mIoU of every image (N,), averaged over seeds; NaN where an image has no pixel that counts."""
    return np.mean([compute_image_mean_iou(seed.counts.build_matrix()) for seed in seeds], axis=0)


def list_worst_images(scores: Scores, ids: Sequence[str], number: int) -> list[str]:
    """Return the ids with the lowest mIoU; of several groups, with the largest loss from the first to the last.

    Ties keep the order of the ids. Images without a mIoU are left out, and those that lost nothing.
    """
    values = compute_group_image_miou(scores[-1])
    if len(scores) > 1:
        values = values - compute_group_image_miou(scores[0])
        values[values >= 0] = np.nan
    order = np.argsort(values, kind="stable")
    return [ids[index] for index in order[:number] if not np.isnan(values[index])]

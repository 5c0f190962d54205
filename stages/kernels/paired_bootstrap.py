"""Bootstrap of scores over images: intervals of IoU and mIoU, and of the difference of two runs on the same images.

An image is drawn with everything that was counted on it, because its pixels are not independent. Two runs are compared
on the same draws, so that images that are hard for both do not widen the interval of their difference (the paired
percentile bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13).

Counts are int (N, C, 3) per image and class: pixels in both, in the truth, in the prediction, as in `PixelCounts`.
They can also be a sparse matrix (N, 3 C) of the same order, as most images have few classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from stages.kernels.mean_iou import MEAN_IOU_RULES

if TYPE_CHECKING:
    from scipy import sparse  # a tenth of a second, which only callers with sparse counts need

Counts: TypeAlias = "np.ndarray | sparse.csr_matrix"
_BLOCK_WEIGHTS = 1 << 21  # weights held at once: 16 MB, for any number of draws


class PairedDifference(NamedTuple):
    """The difference b - a of two runs: on the images as they are, its interval, and its value in each draw (R,)."""

    value: float
    interval: tuple[float, float]
    draws: np.ndarray


def resample_counts(counts: Counts, draws: int, seed: int) -> np.ndarray:
    """Return the counts of `draws` samples of N images with replacement, float64 (R, C, 3) of whole numbers.

    The same N, `draws` and `seed` give the same images, whatever the counts are. Sums below 2^53 are exact, so the
    result does not depend on the processor. Raises ValueError for shapes that are no counts, and for N = 0.
    """
    matrix = _flatten_counts(counts)
    num_images = matrix.shape[0]
    if num_images == 0 or draws < 1:
        raise ValueError(f"{num_images} images and {draws} draws leave nothing to resample")
    random = np.random.default_rng(seed)
    totals = np.empty((draws, matrix.shape[1]))
    block = max(1, _BLOCK_WEIGHTS // num_images)
    for start in range(0, draws, block):
        rows = range(start, min(start + block, draws))
        # Counting drawn indices gives multinomial weights, ten times as fast as drawing these.
        weights = np.stack([np.bincount(random.integers(num_images, size=num_images), minlength=num_images)
                            for _ in rows]).astype(np.float64)
        totals[rows.start:rows.stop] = weights @ matrix
    return totals.reshape(draws, -1, 3)


def _flatten_counts(counts: Counts) -> Counts:
    """Return counts as a float64 matrix (N, 3 C)."""
    is_sparse = not isinstance(counts, np.ndarray)
    if is_sparse and counts.shape[1] % 3 == 0:
        return counts.astype(np.float64)
    if is_sparse or counts.ndim != 3 or counts.shape[2] != 3:
        raise ValueError(f"counts of the shape {counts.shape} are neither (N, C, 3) nor a sparse (N, 3 C)")
    return np.asarray(counts, dtype=np.float64).reshape(len(counts), 3 * counts.shape[1])


def compute_iou(totals: np.ndarray) -> np.ndarray:
    """Return the IoU (..., C) of counts (..., C, 3): in [0, 1], NaN where truth and prediction have no pixel."""
    intersection, truth, prediction = np.moveaxis(np.asarray(totals, dtype=np.float64), -1, 0)
    union = truth + prediction - intersection
    return np.divide(intersection, union, out=np.full(union.shape, np.nan), where=union > 0)


def compute_mean_iou(totals: np.ndarray, rule: str = "either") -> np.ndarray:
    """Return the mIoU (...) of counts (..., C, 3) under `rule`, as `mean_iou` does; NaN where no class counts.

    Raises ValueError if the rule is not in MEAN_IOU_RULES.
    """
    if rule not in MEAN_IOU_RULES:
        raise ValueError(f"rule {rule!r} is not one of {', '.join(MEAN_IOU_RULES)}")
    iou = compute_iou(totals)
    is_counted = ~np.isnan(iou)
    if rule == "all":
        is_counted = np.ones_like(is_counted)
    elif rule == "truth":
        is_counted &= np.asarray(totals)[..., 1] > 0
    num_counted = is_counted.sum(axis=-1)
    sums = np.where(is_counted, np.nan_to_num(iou), 0).sum(axis=-1)
    return np.divide(sums, num_counted, out=np.full(sums.shape, np.nan), where=num_counted > 0)


def resample_iou(counts: Counts, draws: int, seed: int) -> np.ndarray:
    """Return the IoU per class in each draw, float64 (R, C). Raises as `resample_counts` does."""
    return compute_iou(resample_counts(counts, draws, seed))


def resample_mean_iou(counts: Counts, draws: int, seed: int, rule: str = "either") -> np.ndarray:
    """Return the mIoU in each draw, float64 (R,), under `rule`. Raises as `resample_counts` does."""
    return compute_mean_iou(resample_counts(counts, draws, seed), rule)


def compute_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the interval that holds the share `level` of values (R,), with equal shares below and above.

    Draws without a value (NaN) are skipped; (NaN, NaN) if all are. Raises ValueError unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compute_paired_difference(counts_a: Counts, counts_b: Counts, draws: int, seed: int, *, level: float = 0.95,
                              rule: str = "either") -> PairedDifference:
    """Return the difference of the mIoU of run b and run a, whose counts list the same images in the same order.

    Raises ValueError if their shapes differ, and as `resample_counts` and `compute_interval` do.
    """
    if counts_a.shape != counts_b.shape:
        raise ValueError(f"counts {counts_a.shape} and {counts_b.shape} differ in shape")
    differences = (resample_mean_iou(counts_b, draws, seed, rule) - resample_mean_iou(counts_a, draws, seed, rule))
    value = _compute_total_miou(counts_b, rule) - _compute_total_miou(counts_a, rule)
    return PairedDifference(value, compute_interval(differences, level), differences)


def _compute_total_miou(counts: Counts, rule: str) -> float:
    matrix = _flatten_counts(counts)
    return float(compute_mean_iou(np.asarray(matrix.sum(axis=0)).reshape(-1, 3), rule))

"""Confusion matrix, intersection over union (IoU), and the three ways in which the field averages it.

The same predictions score .670 or .128 depending on how classes without pixels are counted, so the rule is always
stated:

    either   a class counts unless it is in neither truth nor prediction (IRN: nanmean); our default
    truth    only classes in the truth count (deeplab-pytorch, SC-CAM)
    all      every class counts, absent ones as 0 (MCTformer, SEAM)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MEAN_IOU_RULES = ("either", "truth", "all")
_BAND_PIXELS = 1 << 19  # counted at once, so that an image of any size needs no more than some megabytes


class PixelCounts(NamedTuple):
    """Pixel counts per class, each int64 (C,): in both, in the truth, in the prediction."""

    intersection: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


def confusion_matrix(
    truth: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    *,
    ignore: int = 255,
    ignored_prediction: str = "miss",
) -> np.ndarray:
    """Return int64 (n, n + 1): row = true class, column = predicted class, column n = predicted `ignore`.

    `truth` and `prediction` are (H, W) class ids below n, or `ignore` (255, or 65535 in 16-bit masks). Pixels
    that the truth ignores are skipped. With `ignored_prediction` "miss" a prediction of `ignore` is a miss
    of the true class; with "skip" it is skipped as well. The matrices of several images can be added.
    Raises ValueError for different shapes and for ids that are not classes.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
    if ignored_prediction not in ("miss", "skip"):
        raise ValueError(f"ignored_prediction {ignored_prediction!r} is not miss or skip")
    is_8_bit = truth.dtype == prediction.dtype == np.uint8 and num_classes <= ignore == 255
    count_band = _count_8_bit_pairs if is_8_bit else _count_pairs
    truth, prediction = truth.reshape(-1), prediction.reshape(-1)
    matrix = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    for start in range(0, len(truth), _BAND_PIXELS):
        band = slice(start, start + _BAND_PIXELS)
        matrix += count_band(truth[band], prediction[band], num_classes, ignore)
    if ignored_prediction == "skip":
        matrix[:, num_classes] = 0
    return matrix


def _count_8_bit_pairs(truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore: int) -> np.ndarray:
    """Return the confusion matrix (n, n + 1) of pixels of 8 bits, from a table of all pairs of values."""
    pairs = truth.astype(np.uint16)
    pairs <<= 8
    pairs |= prediction
    counts = np.bincount(pairs)
    present = np.flatnonzero(counts)  # a few of the 65,536 possible pairs
    rows, columns = present >> 8, present & 255
    is_counted = rows != ignore
    present, rows, columns = present[is_counted], rows[is_counted], columns[is_counted]
    _check_ids("truth", rows, num_classes)
    _check_ids("prediction", columns[columns != ignore], num_classes)
    columns[columns == ignore] = num_classes
    matrix = np.zeros((num_classes, num_classes + 1), np.int64)
    matrix[rows, columns] = counts[present]
    return matrix


def _count_pairs(truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore: int) -> np.ndarray:
    """Return the confusion matrix (n, n + 1) of pixels of any integer type."""
    counted = truth != ignore
    rows, columns = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    _check_ids("truth", rows, num_classes)
    _check_ids("prediction", columns[columns != ignore], num_classes)
    columns[columns == ignore] = num_classes
    shape = (num_classes, num_classes + 1)
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def _check_ids(name: str, ids: np.ndarray, num_classes: int) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= num_classes):
        invalid = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"the {name} has the value {invalid}, which is not a class (0..{num_classes - 1})")


def count_pixels(confusion_matrix: np.ndarray) -> PixelCounts:
    """Return the pixel counts per class of a confusion matrix (C, C + 1)."""
    num_classes = confusion_matrix.shape[0]
    return PixelCounts(np.diagonal(confusion_matrix).copy(), confusion_matrix.sum(axis=1),
                       confusion_matrix[:, :num_classes].sum(axis=0))


def iou_per_class(confusion_matrix: np.ndarray | PixelCounts) -> np.ndarray:
    """Return float64 (C,): intersection over union in [0, 1]; NaN where truth and prediction have no pixel."""
    counts = confusion_matrix if isinstance(confusion_matrix, PixelCounts) else count_pixels(confusion_matrix)
    return _divide_or_nan(counts.intersection, counts.truth + counts.prediction - counts.intersection)


def mean_iou(confusion_matrix: np.ndarray | PixelCounts, rule: str = "either") -> float:
    """Return the mean intersection over union in [0, 1] under `rule`; NaN when no class counts.

    Raises ValueError if the rule is not in MEAN_IOU_RULES.
    """
    counts = confusion_matrix if isinstance(confusion_matrix, PixelCounts) else count_pixels(confusion_matrix)
    if rule not in MEAN_IOU_RULES:
        raise ValueError(f"rule {rule!r} is not one of {', '.join(MEAN_IOU_RULES)}")
    iou = iou_per_class(counts)
    if rule == "all":
        iou = np.nan_to_num(iou)
    elif rule == "truth":
        iou = iou[counts.truth > 0]
    iou = iou[~np.isnan(iou)]
    return float(iou.mean()) if iou.size else float("nan")


def pixel_accuracy(confusion_matrix: np.ndarray) -> float:
    """Return the share of counted pixels with the correct class; NaN without pixels."""
    return float(_divide_or_nan(np.diagonal(confusion_matrix).sum(), confusion_matrix.sum()))


def mean_accuracy(confusion_matrix: np.ndarray) -> float:
    """Return the mean recall of the classes in the truth: the share of their pixels that are correct."""
    counts = count_pixels(confusion_matrix)
    recall = _divide_or_nan(counts.intersection, counts.truth)[counts.truth > 0]
    return float(recall.mean()) if recall.size else float("nan")


def frequency_weighted_iou(confusion_matrix: np.ndarray) -> float:
    """Return the mean intersection over union weighted by each class's share of the truth."""
    counts = count_pixels(confusion_matrix)
    total = int(counts.truth.sum())
    if total == 0:
        return float("nan")
    return float(np.nansum(counts.truth / total * iou_per_class(counts)))


def _divide_or_nan(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)

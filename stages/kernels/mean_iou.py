"""Confusion counts, intersection over union, and the three means of it that the field publishes.

The same predictions score .670 or .128 according to how classes without pixels are counted, so the rule is
always named:

    either   a class counts unless it is in neither truth nor prediction (IRN: nanmean); our default
    truth    only classes in the truth count (deeplab-pytorch, SC-CAM)
    all      every class counts, absent ones as 0 (MCTformer, SEAM)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RULES = ("either", "truth", "all")


class Counts(NamedTuple):
    """Pixels per class, each int64 (C,): in both, in the truth, in the prediction."""

    intersection: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


def confusion(
    truth: np.ndarray,
    prediction: np.ndarray,
    n: int,
    *,
    ignore: int = 255,
    ignored_prediction: str = "miss",
) -> np.ndarray:
    """Return int64 (n, n + 1): row = true class, column = predicted class, column n = predicted `ignore`.

    `truth` and `prediction` are (H, W) class ids below n, or `ignore` (255, or 65535 in 16-bit masks). Pixels
    that the truth ignores are skipped. With `ignored_prediction` "miss" a prediction of `ignore` is a miss
    of the true class; with "skip" it is left out as well. Confusions of several images are added.
    Raises ValueError for other shapes and for ids that are no class.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
    if ignored_prediction not in ("miss", "skip"):
        raise ValueError(f"ignored_prediction {ignored_prediction!r} is not miss or skip")
    counted = truth != ignore
    if ignored_prediction == "skip":
        counted &= prediction != ignore
    rows = truth[counted].astype(np.int64)
    columns = prediction[counted].astype(np.int64)
    _check_ids("truth", rows, n)
    _check_ids("prediction", columns[columns != ignore], n)
    columns[columns == ignore] = n
    return np.bincount(rows * (n + 1) + columns, minlength=n * (n + 1)).reshape(n, n + 1)


def _check_ids(name: str, ids: np.ndarray, n: int) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= n):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"the {name} holds {wrong}, which is no class")


def counts_of(confusion: np.ndarray) -> Counts:
    """Return the counts per class of a confusion (C, C + 1)."""
    n = confusion.shape[0]
    return Counts(np.diagonal(confusion).copy(), confusion.sum(axis=1), confusion[:, :n].sum(axis=0))


def iou_per_class(confusion: np.ndarray | Counts) -> np.ndarray:
    """Return float64 (C,): intersection over union in [0, 1]; nan where truth and prediction have no pixel."""
    counts = confusion if isinstance(confusion, Counts) else counts_of(confusion)
    return _ratio(counts.intersection, counts.truth + counts.prediction - counts.intersection)


def mean_iou(confusion: np.ndarray | Counts, rule: str = "either") -> float:
    """Return the mean intersection over union in [0, 1] under `rule`; nan when no class counts.

    Raises ValueError for a rule that is not one of RULES.
    """
    counts = confusion if isinstance(confusion, Counts) else counts_of(confusion)
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is not one of {', '.join(RULES)}")
    iou = iou_per_class(counts)
    if rule == "all":
        iou = np.nan_to_num(iou)
    elif rule == "truth":
        iou = iou[counts.truth > 0]
    iou = iou[~np.isnan(iou)]
    return float(iou.mean()) if iou.size else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Return the share of counted pixels whose class is right; nan without pixels."""
    return float(_ratio(np.diagonal(confusion).sum(), confusion.sum()))


def mean_accuracy(confusion: np.ndarray) -> float:
    """Return the mean over the classes in the truth of the share of their pixels that are right."""
    counts = counts_of(confusion)
    recall = _ratio(counts.intersection, counts.truth)[counts.truth > 0]
    return float(recall.mean()) if recall.size else float("nan")


def frequency_weighted_iou(confusion: np.ndarray) -> float:
    """Return the mean intersection over union weighted by each class's share of the true pixels."""
    counts = counts_of(confusion)
    total = int(counts.truth.sum())
    if total == 0:
        return float("nan")
    return float(np.nansum(counts.truth / total * iou_per_class(counts)))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)

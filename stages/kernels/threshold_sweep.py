"""Intersection over union (IoU) of class maps at many background thresholds, in one pass over the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.kernels.mean_iou import PixelCounts, iou_per_class, mean_iou


def power_to_threshold(power: float) -> float:
    """Return the constant threshold t that equals the background score (1 - max)^power: t = (1 - t)^power.

    A pixel whose best score is m is background under the power rule (PSA, section 3.2; CLIP-ES, eq. 8) where
    (1 - m)^power >= m, which means m <= t, because the left side falls and the right side rises with m.
    Raises ValueError for a negative power.
    """
    if not power >= 0:
        raise ValueError(f"power {power} must be 0 or more")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle < (1.0 - middle) ** power:
            low = middle
        else:
            high = middle
    return high


class ThresholdSweep:
    """Counts pixels of class maps against the truth for T thresholds; a pixel is background where score <= t.

    It needs only the best foreground class of each pixel and its score, because a constant threshold never changes
    the best class. It holds int64 histograms of (C + 1) x (T + 1) bins, however many images are added.
    Scores and thresholds are compared in float32, as they are when masks are made.
    """

    def __init__(self, num_classes: int, thresholds: Sequence[float], *, ignore: int = 255) -> None:
        """Start with no images, `num_classes` foreground classes (ids 1..C) and T `thresholds` in any order."""
        self.num_classes = num_classes
        self.thresholds = np.asarray(thresholds, dtype=np.float32)
        self.ignore = ignore
        self._order = np.argsort(self.thresholds, kind="stable")
        bins = (num_classes + 1, len(self.thresholds) + 1)
        # A pixel in bin j is foreground at the j lowest thresholds and background at the others.
        self._predicted = np.zeros(bins, dtype=np.int64)
        self._correct = np.zeros(bins, dtype=np.int64)
        self._true_background = np.zeros(bins[1], dtype=np.int64)
        self._truth = np.zeros(num_classes + 1, dtype=np.int64)

    def update(self, winner: np.ndarray, score: np.ndarray, truth: np.ndarray) -> None:
        """Add an image, all arrays (H, W): the best class id (0: none), its score in [0, 1], the true class id.

        Raises ValueError for different shapes, for scores that are NaN, and for ids that are not classes.
        """
        if not winner.shape == score.shape == truth.shape:
            raise ValueError(f"shapes {winner.shape}, {score.shape}, {truth.shape} differ")
        counted = truth != self.ignore
        winner, truth = winner[counted].astype(np.int64), truth[counted].astype(np.int64)
        score = score[counted].astype(np.float32)
        if np.isnan(score).any():
            raise ValueError("a score is NaN")
        for name, ids in (("winner", winner), ("truth", truth)):
            if ids.size and not 0 <= ids.min() <= ids.max() <= self.num_classes:
                raise ValueError(f"the {name} has the values {ids.min()}..{ids.max()}, but classes are "
                                 f"0..{self.num_classes}")
        bin_index = np.searchsorted(self.thresholds[self._order], score, side="left")
        bin_index[winner == 0] = 0
        self._predicted += self._build_histogram(winner, bin_index)
        is_correct = winner == truth
        self._correct += self._build_histogram(winner[is_correct], bin_index[is_correct])
        self._true_background += np.bincount(bin_index[truth == 0], minlength=len(self.thresholds) + 1)
        self._truth += np.bincount(truth, minlength=self.num_classes + 1)

    def _build_histogram(self, ids: np.ndarray, bin_index: np.ndarray) -> np.ndarray:
        num_ids, num_bins = self._predicted.shape
        return np.bincount(ids * num_bins + bin_index, minlength=num_ids * num_bins).reshape(num_ids, num_bins)

    def count_pixels(self, index: int) -> PixelCounts:
        """Return the pixel counts (C + 1,) at `thresholds[index]`; class 0 is the background."""
        rank = int(np.flatnonzero(self._order == range(len(self._order))[index])[0])
        prediction = self._predicted[:, rank + 1 :].sum(axis=1)
        prediction[0] = self._truth.sum() - prediction[1:].sum()
        intersection = self._correct[:, rank + 1 :].sum(axis=1)
        intersection[0] = self._truth[0] - self._true_background[rank + 1 :].sum()
        return PixelCounts(intersection, self._truth.copy(), prediction)

    def iou(self) -> np.ndarray:
        """Return float64 (T, C + 1): intersection over union in [0, 1], NaN for classes without pixels."""
        rows = [iou_per_class(self.count_pixels(index)) for index in range(len(self.thresholds))]
        return np.array(rows, dtype=np.float64).reshape(-1, self.num_classes + 1)

    def mean_iou(self, rule: str = "either") -> np.ndarray:
        """Return the mean intersection over union at each threshold under `rule`, float64 (T,)."""
        return np.array([mean_iou(self.count_pixels(index), rule) for index in range(len(self.thresholds))])

    def __add__(self, other: ThresholdSweep) -> ThresholdSweep:
        """Return the sweep over the images of both sweeps. Raises ValueError if their settings differ."""
        same = self.num_classes == other.num_classes and self.ignore == other.ignore
        if not same or not np.array_equal(self.thresholds, other.thresholds):
            raise ValueError("sweeps with different classes or thresholds can't be added")
        total = ThresholdSweep(self.num_classes, self.thresholds.tolist(), ignore=self.ignore)
        for name in ("_predicted", "_correct", "_true_background", "_truth"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

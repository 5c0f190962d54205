"""Intersection over union (IoU) of class maps at many background thresholds, in one pass over the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stages.kernels.mean_iou import PixelCounts, iou_per_class, mean_iou

_BAND_PIXELS = 1 << 16  # counted at once; at least as many as the histogram has bins
# What a pixel counts for, besides as predicted: combinations of these, of which _IGNORED ones count for nothing.
_CORRECT, _TRUE_BACKGROUND, _IGNORED = 1, 2, 4
_NUM_RELATIONS = 8
_MAX_CELLS = 1 << 14
_COUNTS = ("predicted", "correct", "true_background", "truth")


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
        self._bin_finder = _BinFinder(self.thresholds[self._order])
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
        band = max(_BAND_PIXELS, self._predicted.size)
        winner, score, truth = winner.reshape(-1), score.reshape(-1), truth.reshape(-1)
        for start in range(0, len(truth), band):
            part = slice(start, start + band)
            self._add_band(winner[part], score[part].astype(np.float32, copy=False), truth[part])

    def _add_band(self, winner: np.ndarray, score: np.ndarray, truth: np.ndarray) -> None:
        if np.isnan(score.max()):
            raise ValueError("a score is NaN")
        num_pixels_by_id = np.bincount(truth, minlength=max(self.num_classes, self.ignore) + 1)
        num_pixels_by_id[self.ignore] = 0
        self._check_ids("truth", np.flatnonzero(num_pixels_by_id))
        self._check_ids("winner", winner)
        self._truth += num_pixels_by_id[:self.num_classes + 1]
        relations = (winner == truth) * np.uint8(_CORRECT)
        relations += (truth == 0) * np.uint8(_TRUE_BACKGROUND)
        relations += (truth == self.ignore) * np.uint8(_IGNORED)
        num_ids, num_bins = self._predicted.shape
        codes = winner.astype(np.int32)
        codes *= num_bins
        codes += self._bin_finder.find_bins(score) * (winner != 0)
        codes *= _NUM_RELATIONS
        codes += relations
        self._add_histogram(np.bincount(codes, minlength=num_ids * num_bins * _NUM_RELATIONS).reshape(
            num_ids, num_bins, _NUM_RELATIONS))

    def _add_histogram(self, histogram: np.ndarray) -> None:
        """Add the pixel counts (C + 1, T + 1, relation) of a band."""
        histogram = histogram[:, :, :_IGNORED]
        self._predicted += histogram.sum(axis=2)
        self._correct += histogram[:, :, _CORRECT] + histogram[:, :, _CORRECT | _TRUE_BACKGROUND]
        self._true_background += histogram[:, :, _TRUE_BACKGROUND:].sum(axis=(0, 2))

    def _check_ids(self, name: str, ids: np.ndarray) -> None:
        if ids.size and not 0 <= ids.min() <= ids.max() <= self.num_classes:
            raise ValueError(f"the {name} has the values {ids.min()}..{ids.max()}, but classes are "
                             f"0..{self.num_classes}")

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

    @property
    def counts(self) -> dict[str, np.ndarray]:
        """The counts by name, all int64, which add up over images."""
        return {name: getattr(self, f"_{name}") for name in _COUNTS}

    def add_counts(self, counts: Mapping[str, np.ndarray]) -> None:
        """Add the counts of other images, made with the same settings."""
        for name, values in self.counts.items():
            values += counts[name]

    def __add__(self, other: ThresholdSweep) -> ThresholdSweep:
        """Return the sweep over the images of both sweeps. Raises ValueError if their settings differ."""
        same = self.num_classes == other.num_classes and self.ignore == other.ignore
        if not same or not np.array_equal(self.thresholds, other.thresholds):
            raise ValueError("sweeps with different classes or thresholds can't be added")
        total = ThresholdSweep(self.num_classes, self.thresholds.tolist(), ignore=self.ignore)
        total.add_counts(self.counts)
        total.add_counts(other.counts)
        return total


class _BinFinder:
    """Counts the thresholds below a score, as `np.searchsorted` does, with a table instead of a binary search.

    The scores from 0 to 1 are divided into cells that hold at most one threshold each: the cell of a score says how
    many thresholds are below the cell, and one comparison decides about the threshold in it.
    """

    def __init__(self, thresholds: np.ndarray) -> None:
        """Build the table for ascending float32 `thresholds`; without one if two of them are too close."""
        self.thresholds = thresholds
        # A power of two, so that the product with a float32 score is exact.
        self.num_cells = 256
        while self.num_cells <= _MAX_CELLS and not self._separates_thresholds():
            self.num_cells *= 2
        edges = np.arange(self.num_cells + 1, dtype=np.float32) / np.float32(self.num_cells)
        self._num_below = np.searchsorted(thresholds, edges, side="left").astype(np.int32)
        self._next_threshold = np.append(thresholds, np.float32(np.inf))[self._num_below]

    def _separates_thresholds(self) -> bool:
        return bool((np.diff(np.floor(self.thresholds * np.float32(self.num_cells))) > 0).all())

    def find_bins(self, scores: np.ndarray) -> np.ndarray:
        """Return for each float32 score (P,) how many thresholds are less than it."""
        if self.num_cells > _MAX_CELLS or scores.min() < 0 or scores.max() > 1:
            return np.searchsorted(self.thresholds, scores, side="left").astype(np.int32)
        cells = (scores * np.float32(self.num_cells)).astype(np.intp)
        # The cells are in range; without `clip`, take would check that in a further pass.
        return self._num_below.take(cells, mode="clip") + (scores > self._next_threshold.take(cells, mode="clip"))

"""Intersection over union of class maps at many background thresholds, in one pass over the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.kernels.mean_iou import Counts, iou_per_class, mean_iou


def power_threshold(power: float) -> float:
    """Return the constant threshold t that equals the background score (1 - max)^power: t = (1 - t)^power.

    A pixel whose best score is m is background under the power rule (PSA, section 3.2; CLIP-ES, eq. 8) where
    (1 - m)^power >= m, which is m <= t, since the one side falls and the other rises with m.
    Raises ValueError for a negative power.
    """
    if not power >= 0:
        raise ValueError(f"power {power} is not 0 or more")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle < (1.0 - middle) ** power:
            low = middle
        else:
            high = middle
    return high


class ThresholdSweep:
    """Counts of class maps against the truth for T thresholds; a pixel is background where score <= t.

    Needs only which foreground class wins a pixel and its score, since a constant threshold never changes the
    winner. Holds int64 histograms of (C + 1) x (T + 1) bins whatever the number of images.
    Scores and thresholds are compared in float32, as masks are made.
    """

    def __init__(self, n_classes: int, thresholds: Sequence[float], *, ignore: int = 255) -> None:
        """Start at zero for `n_classes` foreground classes (ids 1..C) and T `thresholds` in any order."""
        self.n_classes = n_classes
        self.thresholds = np.asarray(thresholds, dtype=np.float32)
        self.ignore = ignore
        self._order = np.argsort(self.thresholds, kind="stable")
        bins = (n_classes + 1, len(self.thresholds) + 1)
        # Bin j of a pixel: it is foreground at the j lowest thresholds, background at the rest.
        self._won = np.zeros(bins, dtype=np.int64)
        self._hit = np.zeros(bins, dtype=np.int64)
        self._on_background = np.zeros(bins[1], dtype=np.int64)
        self._truth = np.zeros(n_classes + 1, dtype=np.int64)

    def update(self, winner: np.ndarray, score: np.ndarray, truth: np.ndarray) -> None:
        """Add one image, all (H, W): the winning class id (0: none), its score in [0, 1], the true class id.

        Raises ValueError for other shapes, for scores that are nan, and for ids that are no class.
        """
        if not winner.shape == score.shape == truth.shape:
            raise ValueError(f"shapes {winner.shape}, {score.shape}, {truth.shape} differ")
        counted = truth != self.ignore
        winner, truth = winner[counted].astype(np.int64), truth[counted].astype(np.int64)
        score = score[counted].astype(np.float32)
        if np.isnan(score).any():
            raise ValueError("a score is nan")
        for name, ids in (("winner", winner), ("truth", truth)):
            if ids.size and not 0 <= ids.min() <= ids.max() <= self.n_classes:
                raise ValueError(f"the {name} holds {ids.min()}..{ids.max()}, classes are 0..{self.n_classes}")
        foreground_at = np.searchsorted(self.thresholds[self._order], score, side="left")
        foreground_at[winner == 0] = 0
        self._won += self._histogram(winner, foreground_at)
        right = winner == truth
        self._hit += self._histogram(winner[right], foreground_at[right])
        bins = len(self.thresholds) + 1
        self._on_background += np.bincount(foreground_at[truth == 0], minlength=bins)
        self._truth += np.bincount(truth, minlength=self.n_classes + 1)

    def _histogram(self, ids: np.ndarray, foreground_at: np.ndarray) -> np.ndarray:
        rows, bins = self._won.shape
        return np.bincount(ids * bins + foreground_at, minlength=rows * bins).reshape(rows, bins)

    def counts(self, index: int) -> Counts:
        """Return the counts (C + 1,) at `thresholds[index]`, class 0 being the background."""
        rank = int(np.flatnonzero(self._order == range(len(self._order))[index])[0])
        prediction = self._won[:, rank + 1 :].sum(axis=1)
        prediction[0] = self._truth.sum() - prediction[1:].sum()
        intersection = self._hit[:, rank + 1 :].sum(axis=1)
        intersection[0] = self._truth[0] - self._on_background[rank + 1 :].sum()
        return Counts(intersection, self._truth.copy(), prediction)

    def iou(self) -> np.ndarray:
        """Return float64 (T, C + 1): intersection over union in [0, 1], nan for classes without pixels."""
        rows = [iou_per_class(self.counts(index)) for index in range(len(self.thresholds))]
        return np.array(rows, dtype=np.float64).reshape(-1, self.n_classes + 1)

    def mean_iou(self, rule: str = "either") -> np.ndarray:
        """Return float64 (T,): the mean intersection over union at each threshold, under `rule`."""
        return np.array([mean_iou(self.counts(index), rule) for index in range(len(self.thresholds))])

    def __add__(self, other: ThresholdSweep) -> ThresholdSweep:
        """Return the sweep over the images of both. Raises ValueError when their settings differ."""
        same = self.n_classes == other.n_classes and self.ignore == other.ignore
        if not same or not np.array_equal(self.thresholds, other.thresholds):
            raise ValueError("sweeps over other classes or thresholds can't be added")
        total = ThresholdSweep(self.n_classes, self.thresholds.tolist(), ignore=self.ignore)
        for name in ("_won", "_hit", "_on_background", "_truth"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

"""Calibration of scores: how often pixels of a given confidence are right (Guo et al., ICML 2017, eq. 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_BINS = 10
_SCORE_UNITS = 1 << 16  # a confidence is rounded to 1/65536, so that sums are whole numbers and add up exactly


@dataclass(frozen=True)
class ReliabilityBin:
    """Pixels with a confidence in (low, high]: their number, mean confidence, and accuracy (None without pixels)."""

    low: float
    high: float
    pixels: int
    confidence: float | None
    accuracy: float | None


class Calibration:
    """Counts pixels, correct pixels and confidences in bins of equal width; those of several images can be added."""

    def __init__(self, num_bins: int = NUM_BINS) -> None:
        """Start with no pixels."""
        self.num_bins = num_bins
        self.counts = np.zeros((3, num_bins), np.int64)  # pixels, correct pixels, sum of confidences in units

    def add(self, confidence: np.ndarray, is_correct: np.ndarray) -> None:
        """Add pixels: their confidence in [0, 1] and whether they are right, of equal shapes.

        Raises ValueError for confidences that are NaN or outside of [0, 1].
        """
        if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1):
            raise ValueError(f"confidences of {confidence.min()}..{confidence.max()} are not in [0, 1]")
        units = np.rint(confidence.astype(np.float64) * _SCORE_UNITS).astype(np.int64)
        bins = np.clip(-(-units * self.num_bins // _SCORE_UNITS) - 1, 0, self.num_bins - 1)
        self.counts[0] += np.bincount(bins.ravel(), minlength=self.num_bins)
        self.counts[1] += np.bincount(bins[is_correct], minlength=self.num_bins)
        # bincount adds weights in float64, exactly below 2^53: images have fewer than 2^37 pixels.
        self.counts[2] += np.bincount(bins.ravel(), weights=units.ravel(), minlength=self.num_bins).astype(np.int64)

    def list_bins(self) -> list[ReliabilityBin]:
        """Return the reliability table."""
        rows = []
        for index, (pixels, correct, units) in enumerate(self.counts.T.tolist()):
            means = (units / _SCORE_UNITS / pixels, correct / pixels) if pixels else (None, None)
            rows.append(ReliabilityBin(index / self.num_bins, (index + 1) / self.num_bins, pixels, *means))
        return rows

    def compute_expected_error(self) -> float | None:
        """Return the expected calibration error in [0, 1]: the mean of |accuracy - confidence| over the bins.

        Bins are weighted by their pixels. None without pixels.
        """
        pixels, correct, units = self.counts
        return float(np.abs(correct - units / _SCORE_UNITS).sum() / pixels.sum()) if pixels.sum() else None

"""Scores of predictions against the truth, counted image by image in int64."""

from __future__ import annotations

import numpy as np

from stages.kernels.background import Background, mask_of_maps, mask_of_rows
from stages.kernels.mean_iou import Counts, confusion, counts_of, iou_per_class, mean_iou
from stages.kernels.threshold_sweep import ThresholdSweep, power_threshold

CONSTANTS = tuple(round(step / 100, 2) for step in range(100))
POWERS = tuple(round(step / 2, 1) for step in range(1, 65))


class MaskScore:
    """Counts of masks, or of maps under a fixed background, against the truth."""

    def __init__(self, n_classes: int, ignore: int, *, skip_ignored: bool) -> None:
        """Start at zero for `n_classes` foreground classes."""
        self.n, self.ignore = n_classes + 1, ignore
        self.ignored_prediction = "skip" if skip_ignored else "miss"
        self.table = np.zeros((self.n, self.n + 1), dtype=np.int64)
        self.decided = 0

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add one image, both (H, W) class ids."""
        self.table += confusion(truth, prediction, self.n, ignore=self.ignore,
                                ignored_prediction=self.ignored_prediction)
        self.decided += int(((truth != self.ignore) & (prediction != self.ignore)).sum())

    def counts(self) -> Counts:
        """Return the counts per class."""
        return counts_of(self.table)


class SweepScore:
    """Counts of maps at every background score at once."""

    def __init__(self, n_classes: int, ignore: int, *, power: bool) -> None:
        """Start at zero; `power` sweeps the exponent of (1 - max)^A, else a constant."""
        self.values = POWERS if power else CONSTANTS
        self.rule = "power" if power else "constant"
        thresholds = [power_threshold(value) for value in POWERS] if power else list(CONSTANTS)
        self.sweep = ThresholdSweep(n_classes, thresholds, ignore=ignore)

    def add(self, truth: np.ndarray, rows: np.ndarray, class_ids: np.ndarray) -> None:
        """Add one image: truth (H, W), rows (K, H, W) in [0, 1] for class_ids (K,)."""
        if not len(rows):
            self.sweep.update(np.zeros(truth.shape, np.int64), np.zeros(truth.shape, np.float32), truth)
            return
        winner = class_ids.astype(np.int64)[rows.argmax(axis=0)]
        self.sweep.update(winner, rows.max(axis=0), truth)

    def best(self, rule: str) -> tuple[float, Counts]:
        """Return the value with the highest mIoU under `rule` (the lowest of equals), and its counts.

        Where no pixel counts all are equal.
        """
        means = self.sweep.mean_iou(rule)
        place = 0 if np.isnan(means).all() else int(np.nanargmax(means))
        return self.values[place], self.sweep.counts(place)


def prediction_of(rows: np.ndarray, class_ids: np.ndarray, background: Background | None, ignore: int) -> np.ndarray:
    """Return the mask (H, W) of maps: rows compete directly, or with a background."""
    if background is None:
        return mask_of_rows(rows, class_ids)
    return mask_of_maps(rows, class_ids, background, ignore)


def summary_of(counts: Counts, classes: tuple[str, ...], rule: str) -> tuple[float | None, dict[str, float | None]]:
    """Return (mIoU in [0, 1], IoU by class name); None where nothing counts. An empty class 0 is left out."""
    first = 0 if classes[0] else 1
    kept = Counts(*(part[first:] for part in counts))
    each = {name: None if np.isnan(value) else float(value)
            for name, value in zip(classes[first:], iou_per_class(kept), strict=True)}
    mean = mean_iou(kept, rule)
    return None if np.isnan(mean) else mean, each

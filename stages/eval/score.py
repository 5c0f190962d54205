"""Score predictions against the ground truth by pixel counts, added up image by image in int64."""

from __future__ import annotations

import numpy as np

from stages.kernels.background import Background, find_best_class, mark_background
from stages.kernels.mean_iou import PixelCounts, confusion_matrix, count_pixels, iou_per_class, mean_iou
from stages.kernels.threshold_sweep import ThresholdSweep, power_to_threshold

BACKGROUND_CONSTANTS = tuple(round(step / 100, 2) for step in range(100))
BACKGROUND_POWERS = tuple(round(step / 2, 1) for step in range(1, 65))


class ConfusionMatrix:
    """Confusion matrix of masks, or of CAMs with a fixed background score, added up over images."""

    def __init__(self, num_classes: int, ignore_index: int, *, skip_ignored: bool) -> None:
        """Start at zero for `num_classes` foreground classes and the background."""
        self.num_classes, self.ignore_index = num_classes + 1, ignore_index
        self.ignored_prediction = "skip" if skip_ignored else "miss"
        self.matrix = np.zeros((self.num_classes, self.num_classes + 1), dtype=np.int64)
        self.num_decided = 0

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add one image, or some of its rows; both masks are (H, W) class ids."""
        matrix = confusion_matrix(truth, prediction, self.num_classes, ignore=self.ignore_index,
                                  ignored_prediction=self.ignored_prediction)
        self.add_matrix(matrix)

    def add_matrix(self, matrix: np.ndarray) -> None:
        """Add the confusion matrix (C, C + 1) of other images, which was counted with the same settings."""
        self.matrix += matrix
        self.num_decided += int(matrix[:, :self.num_classes].sum())

    def count_pixels(self) -> PixelCounts:
        """Return the pixel counts per class."""
        return count_pixels(self.matrix)


class BackgroundSweep:
    """Pixel counts of CAMs at every background score of a range, in one pass over the images."""

    def __init__(self, num_classes: int, ignore_index: int, *, power: bool) -> None:
        """Start at zero; `power` sweeps the exponent A of (1 - max)^A, otherwise a constant is swept."""
        self.values = BACKGROUND_POWERS if power else BACKGROUND_CONSTANTS
        self.rule = "power" if power else "constant"
        thresholds = [power_to_threshold(value) for value in BACKGROUND_POWERS] if power else list(BACKGROUND_CONSTANTS)
        self.sweep = ThresholdSweep(num_classes, thresholds, ignore=ignore_index)

    def add(self, truth: np.ndarray, rows: np.ndarray, class_ids: np.ndarray) -> None:
        """Add one image, or some of its rows: truth (H, W), rows (K, H, W) in [0, 1] for class_ids (K,)."""
        self.sweep.update(*find_best_class(rows, class_ids, truth.dtype.type), truth)

    def select_best(self, rule: str) -> tuple[float, PixelCounts]:
        """Return the value with the highest mIoU under `rule`, and its pixel counts.

        The lowest of several equal values wins; all are equal if no pixel counts.
        """
        means = self.sweep.mean_iou(rule)
        index = 0 if np.isnan(means).all() else int(np.nanargmax(means))
        return self.values[index], self.sweep.count_pixels(index)


def build_prediction(rows: np.ndarray, class_ids: np.ndarray, background: Background | None,
                     ignore_index: int) -> np.ndarray:
    """Return the mask (H, W) of CAMs: their rows compete with each other, and with a background if there is one.

    It is uint8 if the ignore index is 255, else uint16.
    """
    mask, best = find_best_class(rows, class_ids, np.uint8 if ignore_index == 255 else np.uint16)
    if background is not None and len(rows):
        mark_background(mask, best, background, ignore_index)
    return mask


def summarise_iou(counts: PixelCounts, classes: tuple[str, ...],
                  rule: str) -> tuple[float | None, dict[str, float | None]]:
    """Return (mIoU in [0, 1], IoU by class name); None where no pixel counts. Class 0 is skipped if unnamed."""
    first = 0 if classes[0] else 1
    named_counts = PixelCounts(*(pixels[first:] for pixels in counts))
    iou_by_class = {name: None if np.isnan(value) else float(value)
                    for name, value in zip(classes[first:], iou_per_class(named_counts), strict=True)}
    mean = mean_iou(named_counts, rule)
    return None if np.isnan(mean) else mean, iou_by_class


def summarise_precision(counts: PixelCounts, classes: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """Return {"precision", "recall"}: the share of predicted and of true pixels of each class that are right.

    None where a class is not predicted, or not in the truth.
    """
    first = 0 if classes[0] else 1
    shares = {"precision": counts.prediction, "recall": counts.truth}
    return {name: {class_name: int(right) / int(pixels) if pixels else None for class_name, right, pixels
                   in zip(classes[first:], counts.intersection[first:], total[first:], strict=True)}
            for name, total in shares.items()}

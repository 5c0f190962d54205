"""Score images one by one: IoU with the ground truth, and disagreement between runs. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from stages.kernels.mean_iou import PixelCounts, confusion_matrix, count_pixels, iou_per_class, mean_iou
from stages.kernels.paired_bootstrap import compute_iou


class RunScore:
    """Scores of one run: its confusion matrix, and the pixel counts of each image for the classes that it has."""

    def __init__(self, num_classes: int, ignore_index: int, *, has_background: bool) -> None:
        """Start without images, for `num_classes` foreground classes."""
        self._num_ids, self._ignore_index = num_classes + 1, ignore_index
        self._first_class = 0 if has_background else 1
        self.matrix = np.zeros((self._num_ids, self._num_ids + 1), dtype=np.int64)
        # Per image the ids (k,) of its classes and their counts (k, 3): most images have few of many classes.
        self._image_counts: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def image_ids(self) -> list[str]:
        """The images that were added."""
        return list(self._image_counts)

    def add(self, item_id: str, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add an image with its masks (H, W). A prediction of the ignore index is a miss, as in `wsss eval`."""
        matrix = confusion_matrix(truth, prediction, self._num_ids, ignore=self._ignore_index)
        self.matrix += matrix
        counts = np.stack(count_pixels(matrix), axis=1)[self._first_class:]
        rows = np.flatnonzero(counts.any(axis=1))
        self._image_counts[item_id] = (rows.astype(np.int32) + self._first_class, counts[rows])

    def compute_image_iou(self, item_id: str) -> float | None:
        """Return the mean IoU of an image over the classes in its truth or prediction; None if no pixel counts."""
        if item_id not in self._image_counts or not len(self._image_counts[item_id][0]):
            return None
        return float(compute_iou(self._image_counts[item_id][1]).mean())

    def compute_mean_iou(self) -> float | None:
        """Return the mean IoU over all images, as `wsss eval` computes it; None if no pixel counts."""
        return _average(count_pixels(self.matrix), self._first_class)

    def compute_class_iou(self) -> np.ndarray:
        """Return the IoU in [0, 1] of each class (C + 1,); NaN where no pixel counts, and for an unnamed class 0."""
        values = iou_per_class(self.matrix)
        values[:self._first_class] = np.nan
        return values

    def stack_counts(self) -> sparse.csr_matrix:
        """Return the pixel counts of all images, sparse (N, 3 (C + 1)): in both, in the truth, in the prediction."""
        class_ids = [rows for rows, _ in self._image_counts.values()]
        columns = [(3 * rows[:, None] + np.arange(3)).ravel() for rows in class_ids]
        values = [counts.ravel() for _, counts in self._image_counts.values()]
        starts = np.cumsum([0, *(3 * len(rows) for rows in class_ids)])
        return sparse.csr_matrix((np.concatenate(values), np.concatenate(columns), starts),
                                 shape=(len(class_ids), 3 * self._num_ids))


def compute_disagreement(first: np.ndarray, second: np.ndarray, num_classes: int, ignore_index: int) -> float | None:
    """Return 1 - the mean IoU of two masks (H, W), in [0, 1]; pixels that either ignores do not count.

    None if no pixel counts.
    """
    matrix = confusion_matrix(first, second, num_classes + 1, ignore=ignore_index, ignored_prediction="skip")
    agreement = _average(count_pixels(matrix), 0)
    return None if agreement is None else 1 - agreement


def _average(counts: PixelCounts, first_class: int) -> float | None:
    mean = mean_iou(PixelCounts(*(pixels[first_class:] for pixels in counts)))
    return None if np.isnan(mean) else float(mean)


def count_cooccurrences(labels: Sequence[tuple[int, ...]], num_classes: int) -> np.ndarray:
    """Return the number of images with both classes, int64 (C, C); the diagonal counts the images of a class.

    `labels` are the class ids in 1..C of each image, without duplicates.
    """
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for class_ids in labels:
        rows = np.asarray(class_ids, dtype=np.int64) - 1
        counts[rows[:, None], rows[None, :]] += 1
    return counts


def sort_worst_first(ids: Sequence[str], values: Mapping[str, float | None], *, is_high_bad: bool) -> list[str]:
    """Return the ids from the worst to the best value; equal values in their order, and ids without a value last."""
    sign = -1 if is_high_bad else 1

    def build_key(item_id: str) -> tuple[bool, float]:
        value = values.get(item_id)
        return value is None, 0.0 if value is None else sign * value

    return sorted(ids, key=build_key)


def choose_images(ids: Sequence[str], limit: int, sample: str, seed: int) -> list[str]:
    """Return at most `limit` (0: all) of `ids` in their order; `worst` expects them sorted, the worst first."""
    if not 0 < limit < len(ids):
        return list(ids)
    if sample == "even":
        positions = np.linspace(0, len(ids) - 1, limit).round().astype(int)
    elif sample == "random":
        positions = np.sort(np.random.default_rng(seed).permutation(len(ids))[:limit])
    else:
        positions = np.arange(limit)
    return [ids[position] for position in positions]

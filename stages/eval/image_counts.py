"""Pixel counts of every image and class, kept for the classes that an image has."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from stages.kernels.mean_iou import PixelCounts
from stages.kernels.paired_bootstrap import compute_iou, compute_mean_iou

if TYPE_CHECKING:
    from scipy import sparse

_IMAGES_AT_ONCE = 1024


class ImageCounts:
    """Pixel counts (intersection, truth, prediction) of N images and C classes, in memory of their nonzero counts.

    An image has a few of the classes: 100,000 images with 4 of 81 classes need 12 MB instead of 200.
    """

    def __init__(self, num_classes: int) -> None:
        """Start without images, for `num_classes` classes with the background."""
        self.num_classes = num_classes
        self._columns, self._values, self._starts = array("i"), array("q"), array("q", [0])

    def add(self, counts: PixelCounts) -> None:
        """Add the counts (C,) of the next image."""
        values = np.stack(counts, axis=1).astype(np.int64).ravel()
        columns = np.flatnonzero(values)
        self._columns.frombytes(columns.astype(np.intc).tobytes())
        self._values.frombytes(values[columns].tobytes())
        self._starts.append(len(self._columns))

    def export_counts(self) -> dict[str, np.ndarray]:
        """Return the counts as arrays of successive images, which can be joined."""
        return {"columns": np.array(self._columns, np.intc), "values": np.array(self._values, np.int64),
                "lengths": np.diff(np.array(self._starts, np.int64))}

    def append_counts(self, counts: Mapping[str, np.ndarray]) -> None:
        """Append exported counts of further images."""
        starts = self._starts[-1] + np.cumsum(counts["lengths"])
        self._columns.frombytes(counts["columns"].astype(np.intc).tobytes())
        self._values.frombytes(counts["values"].astype(np.int64).tobytes())
        self._starts.frombytes(starts.astype(np.int64).tobytes())

    def __len__(self) -> int:
        return len(self._starts) - 1

    def build_matrix(self) -> sparse.csr_matrix:
        """Return the counts as a sparse matrix (N, 3 C) int64, as `paired_bootstrap` takes them."""
        from scipy import sparse  # here, because it takes a tenth of a second and a single run is scored without it
        parts = (np.array(self._values, np.int64), np.array(self._columns, np.intc), np.array(self._starts, np.int64))
        return sparse.csr_matrix(parts, shape=(len(self), 3 * self.num_classes))


def sum_counts(matrix: sparse.csr_matrix) -> PixelCounts:
    """Return the counts (C,) of all images of a matrix (N, 3 C)."""
    totals = np.asarray(matrix.sum(axis=0)).reshape(-1, 3).astype(np.int64)
    return PixelCounts(*totals.T)


def iterate_image_iou(matrix: sparse.csr_matrix) -> Iterator[np.ndarray]:
    """Yield the IoU per class of successive images, (n, C) with NaN for classes that an image does not have."""
    for start in range(0, matrix.shape[0], _IMAGES_AT_ONCE):
        yield compute_iou(matrix[start:start + _IMAGES_AT_ONCE].toarray().reshape(-1, matrix.shape[1] // 3, 3))


def compute_image_mean_iou(matrix: sparse.csr_matrix) -> np.ndarray:
    """Return the mIoU of every image (N,), over the classes in its truth or prediction; NaN if no pixel counts.

    The rules "truth" and "all" say which classes of a data set count. A single image has few of them, so that they
    would ignore a wrong class, or count classes that the image does not have as errors.
    """
    values = [compute_mean_iou(matrix[start:start + _IMAGES_AT_ONCE].toarray().reshape(-1, matrix.shape[1] // 3, 3))
              for start in range(0, matrix.shape[0], _IMAGES_AT_ONCE)]
    return np.concatenate([np.zeros(0), *values])

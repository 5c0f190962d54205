"""Count co-occurring classes: the prior correlation matrix of CSD (cross-domain semantic decoupling), eq. 1."""

from __future__ import annotations

import numpy as np


def count_cooccurrences(class_ids: np.ndarray, labels_per_image: np.ndarray, num_classes: int,
                        diagonal: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of images with both classes (C, C), and of single-label images of each (C,), both int64.

    `class_ids` (M,) in 1..C are the concatenated labels of all images, without duplicates in an image, and
    `labels_per_image` (N,) is the number of labels of each image. Row r is class id r + 1. The diagonal is "single"
    (images of the class without another class), "all" (all images of the class) or "zero". Eq. 1 leaves this open; what
    the paper says about classes with "more single-label domain samples" holds for "single" only.
    """
    columns, starts = class_ids.astype(np.int64) - 1, np.cumsum(labels_per_image) - labels_per_image
    counts = np.zeros(num_classes * num_classes, dtype=np.int64)
    # Count all images with the same number of labels at once: a dense (N, C) table takes gigabytes for large sets.
    for length in np.unique(labels_per_image[labels_per_image > 0]):
        present = columns[starts[labels_per_image == length][:, None] + np.arange(length)]
        pairs = present[:, :, None] * num_classes + present[:, None, :]
        counts += np.bincount(pairs.ravel(), minlength=len(counts))
    counts = counts.reshape(num_classes, num_classes)
    single = np.bincount(columns[starts[labels_per_image == 1]], minlength=num_classes).astype(np.int64)
    if diagonal != "all":
        np.fill_diagonal(counts, single if diagonal == "single" else 0)
    return counts, single


def compute_probability(counts: np.ndarray) -> np.ndarray:
    """Divide each row of the counts (C, C) by its sum (CSD, eq. 1) and return P (C, C) float64.

    P[i, j] is the probability of class j in images of class i. A row without samples stays 0, so such a class adds
    nothing when the rows of an image's classes are summed; every other row sums to 1.
    """
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)

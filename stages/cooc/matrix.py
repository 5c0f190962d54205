"""The prior correlation matrix of CSD (cross-domain semantic decoupling), eq. 1."""

from __future__ import annotations

import numpy as np


def counts_of(class_ids: np.ndarray, per_image: np.ndarray, n_classes: int,
              diagonal: str) -> tuple[np.ndarray, np.ndarray]:
    """Return N (C, C), the images that bear both classes, and the single-label images of each (C,), both int64.

    `class_ids` (M,) in 1..C are the labels of all images one after the other, each class once an image, and
    `per_image` (N,) says how many of them each image has. Row r is class id r + 1. `diagonal` is what stands for a
    class with itself: "single" (its images without another class), "all" (all that bear it) or "zero". Eq. 1 leaves
    this open; what the paper says of classes with "more single-label domain samples" holds for "single" only.
    """
    columns, starts = class_ids.astype(np.int64) - 1, np.cumsum(per_image) - per_image
    counts = np.zeros(n_classes * n_classes, dtype=np.int64)
    # All images of so many classes at once: a dense (N, C) table would take gigabytes for large sets.
    for length in np.unique(per_image[per_image > 0]):
        present = columns[starts[per_image == length][:, None] + np.arange(length)]
        pairs = present[:, :, None] * n_classes + present[:, None, :]
        counts += np.bincount(pairs.ravel(), minlength=len(counts))
    counts = counts.reshape(n_classes, n_classes)
    single = np.bincount(columns[starts[per_image == 1]], minlength=n_classes).astype(np.int64)
    if diagonal != "all":
        np.fill_diagonal(counts, single if diagonal == "single" else 0)
    return counts, single


def probability_of(counts: np.ndarray) -> np.ndarray:
    """Return P (C, C) float64 of N (C, C): each row divided by its sum (CSD, eq. 1).

    P[i, j] is the probability of class j where class i is. A row without samples is 0 and stays 0, so such a class
    adds nothing where the rows of an image's classes are summed; every other row sums to 1.
    """
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)

"""Features of image regions: their means over a map, and the classes of the most similar ones (ModuSeg).

Wu et al., "ModuSeg" (2026), read as code; facts only. Regions here never overlap, so the released suppression of
overlapping regions and the order in which they are painted have no counterpart.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_NO_REGION = -1


def erode_regions(labels: np.ndarray, distance: int) -> np.ndarray:
    """Return labels (H, W) int, -1 where another label is within `distance` pixels, counted along rows and columns.

    Equals `distance` erosions of each region by a square of 3 x 3 pixels; the border of the image erodes nothing.
    """
    if not distance:
        return labels
    size = 2 * distance + 1
    lowest = ndimage.minimum_filter(labels, size=size, mode="nearest")
    highest = ndimage.maximum_filter(labels, size=size, mode="nearest")
    return np.where(lowest == highest, labels, _NO_REGION)


def number_regions(labels: np.ndarray, min_area: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (positions (H, W) int64, ids (R,)): which of the rising `ids` each pixel has.

    The position is -1 where the label is negative or has fewer than `min_area` pixels.
    """
    ids, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    is_kept = (ids >= 0) & (counts >= min_area)
    new_positions = np.where(is_kept, np.cumsum(is_kept) - 1, _NO_REGION)
    return new_positions[inverse.reshape(labels.shape)], ids[is_kept]


def average_regions(features: np.ndarray, positions: np.ndarray, num_regions: int, stride: int) -> np.ndarray:
    """Return unit vectors (R, D) float32: the means of features (D, h, w) over regions, weighted by area.

    A cell of `stride` x `stride` pixels counts for each region as often as it has pixels of it. `positions` (H, W) are
    those of `number_regions`; no region is empty. A mean of zero stays zero.
    """
    depth, height, width = features.shape
    rows = np.minimum(np.arange(positions.shape[0]) // stride, height - 1)
    columns = np.minimum(np.arange(positions.shape[1]) // stride, width - 1)
    cells = rows[:, None] * width + columns
    has_region = positions >= 0
    index = positions[has_region] * (height * width) + cells[has_region]
    areas = np.bincount(index, minlength=num_regions * height * width).reshape(num_regions, height * width)
    sums = areas.astype(np.float32) @ features.reshape(depth, -1).T
    return _normalise(sums / np.maximum(areas.sum(axis=1, keepdims=True), 1).astype(np.float32))


def select_typical(features: np.ndarray, class_ids: np.ndarray, drop: float) -> np.ndarray:
    """Return which of the unit vectors (M, D) are kept (M,): all of the background (class 0), and of every other class
    all but the fraction `drop` that lies farthest from the mean of the class.
    """
    is_kept = np.ones(len(features), bool)
    for class_id in np.unique(class_ids[class_ids > 0]):
        members = np.flatnonzero(class_ids == class_id)
        similarity = features[members] @ features[members].mean(axis=0)
        order = np.argsort(similarity, kind="stable")
        is_kept[members[order[:int(drop * len(members))]]] = False
    return is_kept


def retrieve_classes(queries: np.ndarray, bank: np.ndarray, class_ids: np.ndarray,
                     num_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (classes (R,), cosines (R,) float32) of unit vectors `queries` (R, D) by the nearest in `bank` (M, D).

    The class is that of most of the nearest `num_neighbours`; of equally frequent ones, that with the largest sum of
    cosines. The cosine is the mean over the neighbours of this class.
    """
    similarity = queries @ bank.T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :num_neighbours]
    cosines = np.take_along_axis(similarity, nearest, axis=1)
    present, columns = np.unique(class_ids, return_inverse=True)
    votes, sums = (np.zeros((len(queries), len(present))) for _ in range(2))
    rows = np.arange(len(queries))[:, None]
    np.add.at(votes, (rows, columns[nearest]), 1)
    np.add.at(sums, (rows, columns[nearest]), cosines)
    best = np.lexsort((sums, votes), axis=1)[:, -1]
    means = sums[rows[:, 0], best] / np.maximum(votes[rows[:, 0], best], 1)
    return present[best], means.astype(np.float32)


def _normalise(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)

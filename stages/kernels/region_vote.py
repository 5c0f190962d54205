"""Labels and scores that are the same in a whole region: the most frequent label (CorrCLIP), or sums for the mean.

Zhang et al., "CorrCLIP" (2024), corrects a segmentation by the regions of SAM: each region gets the label that most of
its pixels have. Everything is counted in bands of rows, so that a photograph of 50 megapixels needs 300 MB.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_MAX_TABLE = 1 << 16  # ids of a table that is made for an image of any size
_BAND_PIXELS = 1 << 20


def vote_in_regions(labels: np.ndarray, regions: np.ndarray, *, skip: int, ignore: int | None = None) -> np.ndarray:
    """Return the labels (H, W) with the most frequent one of each region at all of its pixels.

    `labels` (H, W) and `regions` (H, W) are integers, also negative ones. Ties go to the smallest label. The region
    `skip` stays as it is. Pixels with the label `ignore` have no vote, and a region of such pixels only stays as it is.
    """
    if not labels.size:
        return labels
    region_ids, region_positions = number_ids(regions)
    label_ids, label_positions = number_ids(labels)
    counts = count_pairs(region_positions, label_positions, (len(region_ids), len(label_ids)))
    if ignore is not None:
        counts[:, label_ids == ignore] = 0
    is_changed = counts.any(axis=1) & (region_ids != skip)
    table = np.repeat(label_ids[None], len(region_ids), axis=0)
    table[is_changed] = label_ids[counts[is_changed].argmax(axis=1), None]
    return look_up_pairs(table, region_positions, label_positions)


def sum_in_regions(scores: np.ndarray, positions: np.ndarray, num_regions: int) -> np.ndarray:
    """Return the sums (K, R) of scores (K, H, W) over regions, with `positions` (H, W) as `number_ids` returns them."""
    sums = [np.bincount(positions.ravel(), row.ravel(), num_regions) for row in scores]
    return np.stack(sums) if sums else np.zeros((0, num_regions))


def number_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (the distinct values (R,) of ids (H, W), rising; the position (H, W) int32 of each pixel's value)."""
    lowest, highest = (int(ids.min()), int(ids.max())) if ids.size else (0, -1)
    if highest - lowest >= max(ids.size, _MAX_TABLE):
        values, positions = np.unique(ids, return_inverse=True)
        return values, positions.reshape(ids.shape).astype(np.int32)
    # A table instead of a sort: ids are small numbers nearly always.
    occurs = np.zeros(highest - lowest + 1, bool)
    for band in _iterate_bands(ids.shape):
        occurs[ids[band].astype(np.int64) - lowest] = True
    table, positions = (np.cumsum(occurs) - 1).astype(np.int32), np.empty(ids.shape, np.int32)
    for band in _iterate_bands(ids.shape):
        positions[band] = table[ids[band].astype(np.int64) - lowest]
    return (np.flatnonzero(occurs) + lowest).astype(ids.dtype), positions


def count_pairs(rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return how often each pair of a row (H, W) and a column (H, W) of a table occurs: `size` int64."""
    counts = np.zeros(size[0] * size[1], np.int64)
    for band in _iterate_bands(rows.shape):
        pairs = rows[band].astype(np.int64) * size[1] + columns[band]
        counts += np.bincount(pairs.ravel(), minlength=len(counts))
    return counts.reshape(size)


def look_up_pairs(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the values (H, W) of a table at rows (H, W) and columns (H, W)."""
    values = np.empty(rows.shape, table.dtype)
    for band in _iterate_bands(rows.shape):
        values[band] = table[rows[band], columns[band]]
    return values


def _iterate_bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of the rows of an image of `shape` that have about a million pixels each."""
    num_rows = max(1, _BAND_PIXELS // max(1, shape[1]))
    yield from (slice(start, start + num_rows) for start in range(0, shape[0], num_rows))

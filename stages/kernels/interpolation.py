"""Bilinear interpolation of NumPy arrays by two samples per axis.

Every result is computed by the same float32 operations in the same order, whatever the shape of the array, so that it
has the same bits on every processor and does not depend on how an image is divided into bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# Values per band in float32: 1 MB, so that a band and its temporary arrays stay in the processor's cache.
_BAND_VALUES = 1 << 18


class Taps(NamedTuple):
    """What N positions on a line read: samples `below` and `above` (N,) int64, and the `fraction` (N,) of the latter.

    A position has the value (1 - fraction) * sample[below] + fraction * sample[above]; `fraction` is float32 in [0, 1].
    """

    below: np.ndarray
    above: np.ndarray
    fraction: np.ndarray

    def select(self, part: slice, first: int) -> Taps:
        """Return the taps of some of the positions, in a line that begins at sample `first`."""
        return Taps(self.below[part] - first, self.above[part] - first, self.fraction[part])


@lru_cache(maxsize=32)
def find_taps(out: int, size: int, *, scale: float, offset: float = 0.0) -> Taps:
    """Return the taps of `out` positions in a line of `size` samples.

    Position y reads coordinate (y + .5) * scale - .5 + offset, clamped to the first and last sample, as the matrix of
    `resample.build_interpolation_matrix` does. The latest taps are cached: callers must not modify them. Raises
    ValueError for an empty line.
    """
    if size < 1 or out < 0:
        raise ValueError(f"can't interpolate {out} positions from {size} samples")
    # In float64: float32 coordinates are off by up to 1e-4 of a sample beyond 1000 pixels.
    coordinate = ((np.arange(out) + 0.5) * scale - 0.5 + offset).clip(0, size - 1)
    below = np.floor(coordinate).astype(np.int64)
    return Taps(below, np.minimum(below + 1, size - 1), (coordinate - below).astype(np.float32))


def interpolate(maps: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """Interpolate maps (K, h, w) at the positions of `rows` (H) and `columns` (W). Return float32 (K, H, W)."""
    return _interpolate_rows(_interpolate_columns(convert_to_float32(maps), columns), rows)


def convert_to_float32(maps: np.ndarray) -> np.ndarray:
    """Return the maps as float32, without a copy if they have that type already."""
    return np.asarray(maps, dtype=np.float32)


def interpolate_in_bands(maps: np.ndarray, rows: Taps, columns: Taps, *, band: int = 0,
                         convert: Callable[[np.ndarray], np.ndarray] = convert_to_float32,
                         ) -> Iterator[tuple[slice, np.ndarray]]:
    """Interpolate maps (K, h, w), `band` rows at a time. Yield (slice of the H rows, float32 (K, rows, W)).

    The values are those of `interpolate`. Only the rows that a band needs are passed to `convert`, which returns them
    as float32. With `band` 0 a band has about a megabyte.
    """
    num_rows, num_columns = len(rows.below), len(columns.below)
    band = band or max(1, _BAND_VALUES // max(1, len(maps) * num_columns))
    wide, first = np.empty((len(maps), 0, num_columns), np.float32), 0
    for start in range(0, num_rows, band):
        part = slice(start, min(start + band, num_rows))
        low, high = int(rows.below[start]), int(rows.above[part.stop - 1]) + 1
        # The rows that the last band read too are not interpolated again.
        retained = wide[:, low - first:]
        new_rows = maps[:, low + retained.shape[1]:high]
        wide = np.concatenate([retained, _interpolate_columns(convert(new_rows), columns)], axis=1)
        first = low
        yield part, _interpolate_rows(wide, rows.select(part, first))


def _interpolate_columns(maps: np.ndarray, taps: Taps) -> np.ndarray:
    """Interpolate float32 maps (K, h, w) along their width at W positions. Return (K, h, W)."""
    values, steps = maps.take(taps.below, axis=2), maps.take(taps.above, axis=2)
    steps -= values
    steps *= taps.fraction
    values += steps
    return values


def _interpolate_rows(maps: np.ndarray, taps: Taps) -> np.ndarray:
    """Interpolate float32 maps (K, h, W) along their height at H positions. Return (K, H, W)."""
    values, steps = maps.take(taps.below, axis=1), maps.take(taps.above, axis=1)
    steps -= values
    steps *= taps.fraction[:, None]
    values += steps
    return values

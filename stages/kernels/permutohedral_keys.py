"""Packed keys of the vertices of a permutohedral lattice, and the scaled features that they are computed from.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010). A vertex
of D dimensions with the coordinates k_0..k_D, all congruent to r modulo D + 1, is packed into one integer: r in the
lowest 3 bits, and above it (k_i - r) / (D + 1) for i < D, each with as many bits as the image and the widths of the
kernel need. The steps to neighbours are then additions of a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.errors import BadData

KEY_BITS = 63


def compute_scales(dimensions: int) -> np.ndarray:
    """Return the factors (D,) float32 of the features before they are elevated; in double until the last product."""
    factor = np.float32(np.sqrt(2.0 / 3.0) * (dimensions + 1))
    return np.array([1.0 / np.sqrt((i + 1.0) * (i + 2.0)) * float(factor) for i in range(dimensions)], np.float32)


def scale_positions(width: int, height: int, sxy: float, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scaled features of the columns (W,) and rows (H,) of an image, for a kernel of `sxy` pixels."""
    columns, rows = (np.arange(size, dtype=np.float32) / np.float32(sxy) for size in (width, height))
    return columns * scales[0], rows * scales[1]


def scale_colours(srgb: float, scales: np.ndarray) -> np.ndarray:
    """Return the scaled features (3, 256) of the levels of red, green and blue, for a kernel of `srgb` grey levels."""
    levels = np.arange(256, dtype=np.float32) / np.float32(srgb)
    return levels[None] * scales[2:, None]


def compute_positions(largest: Sequence[float]) -> list[int]:
    """Return the position of each coordinate in a packed key, and the number of bits of a key (D + 1 numbers).

    `largest` (D,) are the largest scaled features; the smallest are 0.
    """
    num_corners, positions = len(largest) + 1, [3]
    for coordinate in range(len(largest)):
        following = sum(largest[coordinate:])
        # Elevated coordinates are within +- this bound; rounding, wrapping and neighbours move them by less than 18.
        bound = max(following, coordinate * largest[coordinate - 1] if coordinate else 0.0) + 18
        positions.append(positions[-1] + int(np.ceil(np.log2(2 * bound / num_corners + 1))))
    return positions


def compute_shifts(columns: np.ndarray, rows: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return the position (5,) uint64 of each coordinate in a packed key.

    `columns` (W,), `rows` (H,) and `colours` (3, 256) are the scaled features. Raises BadData if the key of a
    vertex would need more than 63 bits, because the kernel is too narrow for the size of the image.
    """
    *shifts, num_bits = compute_positions([float(table.max()) for table in (columns, rows, *colours)])
    if num_bits > KEY_BITS:
        raise_too_narrow(len(columns), len(rows))
    return np.array(shifts, np.uint64)


def raise_too_narrow(width: int, height: int) -> None:
    """Raise BadData: the bilateral kernel is too narrow for an image of this size."""
    raise BadData(f"the bilateral kernel of the CRF is too narrow for an image of {width} x {height} pixels",
                  "Use a larger --bilateral-sxy or --bilateral-srgb, or a smaller --max-side")

"""Random walks of maps over a graph of neighbouring cells.

PSA (Ahn and Kwak, CVPR 2018, eq. 5 and 6) and IRN (Ahn et al., CVPR 2019, eq. 9 and 10) raise a dense N x N transition
matrix to the power 2^8 by squaring it. A cell has at most 68 neighbours, and only the maps of the classes present are
needed: 256 products with a sparse matrix give the same result, in 0.03 s instead of 2.2 s for 47 x 63 cells.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse


class TransitionMatrix:
    """The transition matrix of a map's cells, T = A^beta with each column divided by its sum.

    A is symmetric with a unit diagonal. Stores A^beta by diagonals and the sums of its columns; T is never formed.
    """

    def __init__(self, affinity: np.ndarray, offsets: np.ndarray, beta: float) -> None:
        """Build the matrix from `affinity` (P, h, w) in [0, 1] of each cell with the cell `offsets` (P, 2) away.

        An affinity of 0 means no pair; pairs that lead out of the map are ignored. The arithmetic is float32 if
        `affinity` is float32, else float64.
        """
        dtype = np.float32 if affinity.dtype == np.float32 else np.float64
        num_cells, width = affinity[0].size, affinity.shape[2]
        diagonals = {0: np.ones(num_cells, dtype)}
        for values, (down, across) in zip(affinity, offsets.tolist(), strict=True):
            if down >= affinity.shape[1] or abs(across) >= width:
                continue
            powered = np.zeros(affinity.shape[1:], dtype)
            inside = _slice_cells_with_partner(powered.shape, down, across)
            powered[inside] = values[inside].astype(dtype) ** dtype(beta)
            distance, flat = down * width + across, powered.ravel()
            # In a map narrower than the reach, two offsets share a diagonal, with different cells.
            for position, diagonal in ((distance, _shift_right(flat, distance)), (-distance, flat)):
                diagonals[position] = diagonals[position] + diagonal if position in diagonals else diagonal
        positions = sorted(diagonals)
        self._powered = sparse.dia_array((np.stack([diagonals[position] for position in positions]), positions),
                                         shape=(num_cells, num_cells))
        self._column_scale = 1 / (self._powered @ np.ones(num_cells, dtype))

    def walk(self, maps: np.ndarray, steps: int) -> np.ndarray:
        """Return maps (L, h, w) times T^steps: scores spread to neighbours with a high affinity."""
        walked = [self._walk_map(np.ascontiguousarray(scores.ravel(), self._powered.dtype), steps) for scores in maps]
        return np.stack(walked).reshape(maps.shape) if walked else maps.astype(self._powered.dtype)

    def _walk_map(self, scores: np.ndarray, steps: int) -> np.ndarray:
        # Map by map, because a product with one vector is three times as fast as with three columns at once.
        for _ in range(steps):
            scores = (self._powered @ scores) * self._column_scale
        return scores


def _slice_cells_with_partner(size: tuple[int, ...], down: int, across: int) -> tuple[slice, slice]:
    """Return the cells whose partner is inside the map."""
    height, width = size
    return slice(0, height - down), slice(max(-across, 0), width - max(across, 0))


def _shift_right(flat: np.ndarray, distance: int) -> np.ndarray:
    """Return `flat` shifted by `distance`, as scipy stores a diagonal above the main one."""
    result = np.zeros_like(flat)
    result[distance:] = flat[:len(flat) - distance]
    return result

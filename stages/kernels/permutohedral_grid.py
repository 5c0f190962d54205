"""Vertices of a dense permutohedral lattice of 2 dimensions: the smoothness kernel of a CRF, without a hash table.

Adams, Baek and Davis (Eurographics 2010). The vertex with the coordinates k_0, k_1, k_2, all congruent to r modulo 3,
lies in plane r, row (k_2 - r) / 3 and column q_0 + floor((r + q_2) / 2), where q_i = (k_i - r) / 3: rows follow y and
columns follow x. Neighbours of a whole row of vertices are a row of vertices too.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.numba_compiler import compile_cached

_ROUND_HALF_EVEN = np.float32(12582912.0)
_THIRD = np.float32(1 / 3)
MARGIN = 3


@compile_cached
def embed_positions(columns, rows):
    """Return (vertices (N, 3) uint32, weights (N, 3) float32, shape (planes, rows, columns), present (M,) float32).

    `columns` (W,) and `rows` (H,) are the scaled positions. A vertex that no pixel touches is not present.
    """
    width, height = columns.size, rows.size
    num_columns = int(columns[-1] / np.float32(3)) + 2 * MARGIN + 2
    num_rows = int(np.float32(2) * rows[-1] / np.float32(3)) + 2 * MARGIN + 2
    first_row = num_rows - MARGIN - 1
    vertices, weights = np.empty((width * height, 3), np.uint32), np.empty((width * height, 3), np.float32)
    present = np.zeros(3 * num_rows * num_columns, np.float32)
    residuals = np.zeros(3, np.float32)
    three, one = np.float32(3), np.float32(1)
    for y in range(height):
        for x in range(width):
            e2 = np.float32(0) - np.float32(2) * rows[y]
            e1, e0 = rows[y] - columns[x], rows[y] + columns[x]
            q0 = (e0 * _THIRD + _ROUND_HALF_EVEN) - _ROUND_HALF_EVEN
            q1 = (e1 * _THIRD + _ROUND_HALF_EVEN) - _ROUND_HALF_EVEN
            q2 = (e2 * _THIRD + _ROUND_HALF_EVEN) - _ROUND_HALF_EVEN
            d0, d1, d2 = e0 - q0 * three, e1 - q1 * three, e2 - q2 * three
            b01, b02, b12 = int(d0 < d1), int(d0 < d2), int(d1 < d2)
            total = int(q0 + q1 + q2)
            r0, r1, r2 = total + b01 + b02, total + 1 - b01 + b12, total + 2 - b02 - b12
            w0, w1, w2 = int(r0 < 0) - int(r0 > 2), int(r1 < 0) - int(r1 > 2), int(r2 < 0) - int(r2 > 2)
            r0, r1, r2 = r0 + 3 * w0, r1 + 3 * w1, r2 + 3 * w2
            k0, k1, k2 = int(q0) + w0, int(q1) + w1, int(q2) + w2
            residuals[r0] = (e0 - np.float32(3 * k0)) * _THIRD
            residuals[r1] = (e1 - np.float32(3 * k1)) * _THIRD
            residuals[r2] = (e2 - np.float32(3 * k2)) * _THIRD
            pixel = y * width + x
            weights[pixel, 0] = residuals[2] + (one - residuals[0])
            weights[pixel, 1] = residuals[1] - residuals[2]
            weights[pixel, 2] = residuals[0] - residuals[1]
            for corner in range(3):
                c0, c2 = k0 - int(r0 > 2 - corner), k2 - int(r2 > 2 - corner)
                column = c0 + ((corner + c2) >> 1) + MARGIN
                vertex = (corner * num_rows + c2 + first_row) * num_columns + column
                vertices[pixel, corner] = vertex
                present[vertex] = one
    return vertices, weights, (3, num_rows, num_columns), first_row, present


@compile_cached
def blur_grid(values, spare, present, shape, first_row, channels):
    """Blur `values` (channels * M,) along the three axes; each vertex gains half the sum of its two neighbours."""
    num_rows, num_columns = shape[1], shape[2]
    half = np.float32(0.5)
    size = 3 * num_rows * num_columns
    source, target = values, spare
    for axis in range(3):
        own0, own2 = int(axis == 0), int(axis == 2)
        for plane in range(3):
            next_plane, previous_plane = (plane + 1) % 3, (plane + 2) % 3
            lift, drop = int(plane == 2), int(plane == 0)
            for row in range(1, num_rows - 1):
                q2 = row - first_row
                n2, p2 = q2 + lift - own2, q2 + own2 - drop
                shift = (plane + q2) >> 1
                following = ((next_plane * num_rows + n2 + first_row) * num_columns
                             + lift - own0 + ((next_plane + n2) >> 1) - shift)
                previous = ((previous_plane * num_rows + p2 + first_row) * num_columns
                            + own0 - drop + ((previous_plane + p2) >> 1) - shift)
                start = (plane * num_rows + row) * num_columns
                length = num_columns - 4
                mask = present[start + 2:start + 2 + length]
                for channel in range(channels):
                    first = channel * size + 2
                    # Slices and one running index are what the compiler can turn into vector instructions.
                    old = source[first + start:first + start + length]
                    before, after = source[first + previous:][:length], source[first + following:][:length]
                    new = target[first + start:first + start + length]
                    for k in range(length):
                        new[k] = (old[k] + half * (before[k] + after[k])) * mask[k]
        source, target = target, source
    return source

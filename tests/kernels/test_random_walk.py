"""The sparse walk against the dense one, on maps of any size."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.pairs import pair_offsets
from stages.kernels.random_walk import Transition


def dense(affinity: np.ndarray, offsets: np.ndarray, beta: float) -> np.ndarray:
    """Return the N x N transition matrix, cell by cell."""
    height, width = affinity.shape[1:]
    matrix = np.eye(height * width)
    for values, (down, across) in zip(affinity, offsets.tolist(), strict=True):
        for row in range(height):
            for column in range(width):
                if row + down < height and 0 <= column + across < width:
                    one, other = row * width + column, (row + down) * width + column + across
                    matrix[one, other] = matrix[other, one] = values[row, column] ** beta
    return matrix / matrix.sum(0)


# In the narrow ones two offsets lead to the same distance in memory.
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (3, 4), (6, 5), (5, 8), (9, 7)])
def test_any_size_walks_as_the_dense_matrix_does(size):
    random = np.random.default_rng(0)
    offsets = pair_offsets(5)
    affinity, rows = random.random((len(offsets), *size)), random.random((2, *size))
    for steps in (0, 1, 5):
        expected = rows.reshape(2, -1) @ np.linalg.matrix_power(dense(affinity, offsets, 3), steps)
        found = Transition(affinity, offsets, 3).walk(rows, steps)
        np.testing.assert_allclose(found.reshape(2, -1), expected, rtol=1e-12)


def test_float32_stays_close_to_float64():
    random = np.random.default_rng(0)
    offsets = pair_offsets(5)
    affinity, rows = random.random((len(offsets), 12, 14)), random.random((3, 12, 14))
    single = Transition(affinity.astype(np.float32), offsets, 8).walk(rows.astype(np.float32), 256)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, Transition(affinity, offsets, 8).walk(rows, 256), rtol=1e-5)


def test_mirrored_maps_walk_to_the_mirror_image():
    """With the affinities of the mirrored features, up and down: the pairs are the same."""
    random = np.random.default_rng(0)
    offsets, features, rows = pair_offsets(3), random.random((8, 6, 7)), random.random((1, 6, 7))

    def walked(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        height, width = features.shape[1:]
        affinity = np.zeros((len(offsets), height, width))
        for place, (down, across) in enumerate(offsets.tolist()):
            for row in range(height - down):
                for column in range(max(0, -across), min(width, width - across)):
                    difference = features[:, row, column] - features[:, row + down, column + across]
                    affinity[place, row, column] = np.exp(-np.abs(difference).mean())
        return Transition(affinity, offsets, 4).walk(rows, 6)

    plain = walked(features, rows)
    np.testing.assert_allclose(walked(features[:, ::-1], rows[:, ::-1])[:, ::-1], plain, rtol=1e-10)
    np.testing.assert_allclose(walked(features[..., ::-1], rows[..., ::-1])[..., ::-1], plain, rtol=1e-10)


def test_without_rows_nothing_walks():
    offsets = pair_offsets(5)
    transition = Transition(np.zeros((len(offsets), 4, 5), np.float32), offsets, 8)
    assert transition.walk(np.zeros((0, 4, 5)), 8).shape == (0, 4, 5)

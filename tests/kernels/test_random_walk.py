"""The sparse random walk compared with the dense one, on maps of any size."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.cell_pairs import compute_pair_offsets
from stages.kernels.random_walk import TransitionMatrix


def build_dense_matrix(affinity: np.ndarray, offsets: np.ndarray, beta: float) -> np.ndarray:
    """Return the N x N transition matrix, cell by cell."""
    height, width = affinity.shape[1:]
    matrix = np.eye(height * width)
    for values, (down, across) in zip(affinity, offsets.tolist(), strict=True):
        for row in range(height):
            for column in range(width):
                if row + down < height and 0 <= column + across < width:
                    source, partner = row * width + column, (row + down) * width + column + across
                    matrix[source, partner] = matrix[partner, source] = values[row, column] ** beta
    return matrix / matrix.sum(0)


# In the narrow maps two offsets lead to the same distance in memory.
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (3, 4), (6, 5), (5, 8), (9, 7)])
def test_walk_equals_dense_matrix(size):
    random = np.random.default_rng(0)
    offsets = compute_pair_offsets(5)
    affinity, maps = random.random((len(offsets), *size)), random.random((2, *size))
    for steps in (0, 1, 5):
        expected = maps.reshape(2, -1) @ np.linalg.matrix_power(build_dense_matrix(affinity, offsets, 3), steps)
        walked = TransitionMatrix(affinity, offsets, 3).walk(maps, steps)
        np.testing.assert_allclose(walked.reshape(2, -1), expected, rtol=1e-12)


def test_float32_stays_close_to_float64():
    random = np.random.default_rng(0)
    offsets = compute_pair_offsets(5)
    affinity, maps = random.random((len(offsets), 12, 14)), random.random((3, 12, 14))
    single = TransitionMatrix(affinity.astype(np.float32), offsets, 8).walk(maps.astype(np.float32), 256)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, TransitionMatrix(affinity, offsets, 8).walk(maps, 256), rtol=1e-5)


def test_mirrored_maps_give_mirrored_walk():
    """The mirrored features have the same pairs, mirrored vertically or horizontally."""
    random = np.random.default_rng(0)
    offsets, features, maps = compute_pair_offsets(3), random.random((8, 6, 7)), random.random((1, 6, 7))

    def walk(features: np.ndarray, maps: np.ndarray) -> np.ndarray:
        height, width = features.shape[1:]
        affinity = np.zeros((len(offsets), height, width))
        for index, (down, across) in enumerate(offsets.tolist()):
            for row in range(height - down):
                for column in range(max(0, -across), min(width, width - across)):
                    difference = features[:, row, column] - features[:, row + down, column + across]
                    affinity[index, row, column] = np.exp(-np.abs(difference).mean())
        return TransitionMatrix(affinity, offsets, 4).walk(maps, 6)

    expected = walk(features, maps)
    np.testing.assert_allclose(walk(features[:, ::-1], maps[:, ::-1])[:, ::-1], expected, rtol=1e-10)
    np.testing.assert_allclose(walk(features[..., ::-1], maps[..., ::-1])[..., ::-1], expected, rtol=1e-10)


def test_walk_without_maps():
    offsets = compute_pair_offsets(5)
    transition = TransitionMatrix(np.zeros((len(offsets), 4, 5), np.float32), offsets, 8)
    assert transition.walk(np.zeros((0, 4, 5)), 8).shape == (0, 4, 5)

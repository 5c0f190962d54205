"""Pairs of neighbouring cells, and the gradient of their distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.kernels.cell_pairs import (
    compute_pair_differences,
    compute_pair_distances,
    compute_pair_offsets,
    compute_smallest_map_size,
    compute_source_window,
    scatter_pairs_to_map,
)


@pytest.mark.parametrize("radius", [2, 3, 5, 10])
def test_each_pair_within_radius_occurs_once(radius):
    offsets = {tuple(offset) for offset in compute_pair_offsets(radius).tolist()}
    near = {(down, across) for down in range(1 - radius, radius) for across in range(1 - radius, radius)
            if 0 < down * down + across * across < radius * radius}
    assert offsets | {(-down, -across) for down, across in offsets} == near
    assert len(offsets) == len(compute_pair_offsets(radius)) == len(near) / 2


def test_radius_without_pairs_raises():
    with pytest.raises(ValueError, match="radius 1"):
        compute_pair_offsets(1)


def test_pair_distances_and_their_gradient():
    features = torch.randn(2, 3, 8, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distances = compute_pair_distances(features, 4)
    rows, columns = compute_source_window((8, 11), 4)
    for index, (down, across) in enumerate(compute_pair_offsets(4).tolist()):
        for row in range(rows.start, rows.stop):
            for column in range(columns.start, columns.stop):
                expected = (features[:, :, row, column] - features[:, :, row + down, column + across]).abs().mean(1)
                torch.testing.assert_close(distances[:, index, row - rows.start, column - columns.start], expected)
    small = features[:1, :, :5, :8].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda features: compute_pair_distances(features, 3), small)


def test_pair_differences_and_their_gradient():
    features = torch.randn(2, 3, 8, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    differences = compute_pair_differences(features, 4)
    torch.testing.assert_close(differences.abs().mean(1), compute_pair_distances(features, 4))
    index = compute_pair_offsets(4).tolist().index([2, -1])
    assert differences[1, 2, index, 3, 4] == features[1, 2, 3, 7] - features[1, 2, 5, 6]
    small = features[:1, :, :5, :8].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda features: compute_pair_differences(features, 3), small)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 5), (5, 8)])
def test_small_maps_have_no_pairs(size):
    distances = compute_pair_distances(torch.randn(1, 3, *size), 5)
    assert distances.shape[:2] == (1, 34) and distances.numel() == 0
    assert not scatter_pairs_to_map(distances[0].numpy(), size, 5).any()


@pytest.mark.parametrize("radius", [2, 5, 10])
def test_smallest_map_has_one_pair(radius):
    height, width = compute_smallest_map_size(radius)
    assert compute_pair_distances(torch.zeros(1, 1, height, width), radius)[0, 0].shape == (1, 1)
    for size in ((height - 1, width), (height, width - 1)):
        assert compute_pair_distances(torch.zeros(1, 1, *size), radius).numel() == 0


def test_scattered_values_are_at_their_sources():
    values = np.arange(34 * 2 * 3, dtype=np.float32).reshape(34, 2, 3) + 1
    scattered = scatter_pairs_to_map(values, (6, 11), 5)
    np.testing.assert_array_equal(scattered[:, :2, 4:7], values)
    assert np.count_nonzero(scattered) == values.size

"""Pairs of neighbouring cells: which there are, and the gradient of their distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.kernels.pairs import (
    pair_differences,
    pair_distances,
    pair_offsets,
    smallest_map,
    source_window,
    spread_over_map,
)


@pytest.mark.parametrize("radius", [2, 3, 5, 10])
def test_every_pair_closer_than_the_radius_is_there_once(radius):
    offsets = {tuple(offset) for offset in pair_offsets(radius).tolist()}
    near = {(down, across) for down in range(1 - radius, radius) for across in range(1 - radius, radius)
            if 0 < down * down + across * across < radius * radius}
    assert offsets | {(-down, -across) for down, across in offsets} == near
    assert len(offsets) == len(pair_offsets(radius)) == len(near) / 2


def test_a_radius_without_pairs_is_refused():
    with pytest.raises(ValueError, match="radius 1"):
        pair_offsets(1)


def test_distances_are_those_of_the_cells_and_so_is_their_gradient():
    features = torch.randn(2, 3, 8, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = pair_distances(features, 4)
    rows, columns = source_window((8, 11), 4)
    for place, (down, across) in enumerate(pair_offsets(4).tolist()):
        for row in range(rows.start, rows.stop):
            for column in range(columns.start, columns.stop):
                expected = (features[:, :, row, column] - features[:, :, row + down, column + across]).abs().mean(1)
                torch.testing.assert_close(found[:, place, row - rows.start, column - columns.start], expected)
    small = features[:1, :, :5, :8].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: pair_distances(given, 3), small)


def test_differences_keep_their_sign_and_have_a_gradient():
    features = torch.randn(2, 3, 8, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = pair_differences(features, 4)
    torch.testing.assert_close(found.abs().mean(1), pair_distances(features, 4))
    place = pair_offsets(4).tolist().index([2, -1])
    assert found[1, 2, place, 3, 4] == features[1, 2, 3, 7] - features[1, 2, 5, 6]
    small = features[:1, :, :5, :8].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: pair_differences(given, 3), small)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 5), (5, 8)])
def test_maps_without_room_have_no_pairs(size):
    found = pair_distances(torch.randn(1, 3, *size), 5)
    assert found.shape[:2] == (1, 34) and found.numel() == 0
    assert not spread_over_map(found[0].numpy(), size, 5).any()


@pytest.mark.parametrize("radius", [2, 5, 10])
def test_the_smallest_map_has_a_pair_and_a_smaller_one_none(radius):
    height, width = smallest_map(radius)
    assert pair_distances(torch.zeros(1, 1, height, width), radius)[0, 0].shape == (1, 1)
    for size in ((height - 1, width), (height, width - 1)):
        assert pair_distances(torch.zeros(1, 1, *size), radius).numel() == 0


def test_values_stand_at_their_sources():
    values = np.arange(34 * 2 * 3, dtype=np.float32).reshape(34, 2, 3) + 1
    spread = spread_over_map(values, (6, 11), 5)
    np.testing.assert_array_equal(spread[:, :2, 4:7], values)
    assert np.count_nonzero(spread) == values.size

"""The cells on the path between two cells, the maximum on the path, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.kernels.boundary_paths import (
    compute_all_path_affinities,
    compute_path_affinities,
    compute_path_maxima,
    list_path_cells,
)
from stages.kernels.cell_pairs import compute_pair_offsets, compute_source_window


@pytest.mark.parametrize(("offset", "cells"), [
    ((0, 2), [(0, 0), (0, 1), (0, 2)]), ((3, 0), [(0, 0), (1, 0), (2, 0), (3, 0)]),
    # On a diagonal both neighbours are 0.7 of a cell away from the line.
    ((1, -1), [(0, 0), (0, -1), (1, 0), (1, -1)]), ((1, 2), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)])])
def test_path_cells(offset, cells):
    assert {*map(tuple, list_path_cells(offset).tolist())} == {*cells}
    assert tuple(list_path_cells(offset)[0]) == (0, 0)


def test_cell_at_distance_one_is_not_on_path():
    cells = {*map(tuple, list_path_cells((3, 4)).tolist())}
    assert not {(1, 3), (2, 1)} & cells and {(1, 1), (1, 2), (2, 2), (2, 3)} <= cells


@pytest.mark.parametrize("radius", [5, 10])
def test_path_is_connected_and_symmetric(radius):
    for offset in compute_pair_offsets(radius):
        cells = {*map(tuple, list_path_cells(offset).tolist())}
        assert {(0, 0), tuple(offset.tolist())} <= cells
        assert cells == {(offset[0] - row, offset[1] - column) for row, column in cells}
        steps = {(row - other_row, column - other_column) for row, column in cells for other_row, other_column in cells}
        assert {max(abs(row), abs(column)) for row, column in steps} == set(range(np.abs(offset).max() + 1))


def compute_maxima_by_loops(boundary: torch.Tensor, radius: int) -> torch.Tensor:
    rows, columns = compute_source_window((boundary.shape[1], boundary.shape[2]), radius)
    return torch.stack([torch.stack([
        torch.stack([boundary[:, row + down, column + across] for down, across in list_path_cells(offset)]).amax(0)
        for row in range(rows.start, rows.stop) for column in range(columns.start, columns.stop)], -1)
                        for offset in compute_pair_offsets(radius)], 1)


def test_path_maxima_and_their_gradient():
    boundary = torch.rand(2, 8, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maxima = compute_path_maxima(boundary, 4)
    assert maxima.shape == (2, 22, 5, 5)
    torch.testing.assert_close(maxima.flatten(2), compute_maxima_by_loops(boundary, 4), rtol=0, atol=0)
    small = boundary[:1, :6, :9].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda boundary: compute_path_affinities(boundary, 4), small)


def test_gradient_goes_to_one_of_equal_maxima():
    boundary = torch.full((1, 6, 9), 0.5, dtype=torch.float64, requires_grad=True)
    compute_path_maxima(boundary, 4).sum().backward()
    gradient = boundary.grad[0]
    assert gradient.sum() == 22 * 3 * 3
    assert (gradient[compute_source_window((6, 9), 4)] == 22).all() and gradient.count_nonzero() == 9


def test_gradient_equals_autograd():
    boundary = torch.rand(1, 12, 22, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.rand_like(compute_path_maxima(boundary, 10))
    (compute_path_maxima(boundary, 10) * weights).sum().backward()
    reference = boundary.detach().clone().requires_grad_()
    (compute_maxima_by_loops(reference, 10) * weights.flatten(2)).sum().backward()
    torch.testing.assert_close(boundary.grad, reference.grad)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 5)])
def test_small_maps_have_pairs_only_with_a_wall(size):
    boundary = torch.rand(1, *size, requires_grad=True)
    affinities = compute_path_affinities(boundary, 5)
    assert affinities.shape[:2] == (1, 34) and affinities.numel() == 0
    affinities.sum().backward()
    assert not boundary.grad.any()
    walled = compute_all_path_affinities(boundary.detach()[0], 5)
    assert walled.shape == (34, *size)


def test_all_path_affinities_are_zero_outside():
    boundary = torch.rand(7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    affinities = compute_all_path_affinities(boundary, 5)
    for (down, across), affinity in zip(compute_pair_offsets(5).tolist(), affinities, strict=True):
        for row in range(7):
            for column in range(9):
                is_inside = row + down < 7 and 0 <= column + across < 9
                cells = list_path_cells((down, across)) + np.array([row, column])
                expected = 1 - boundary[cells[:, 0], cells[:, 1]].max() if is_inside else 0.0
                assert affinity[row, column] == expected


def test_mirrored_boundary_has_mirrored_affinities():
    boundary = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    offsets = compute_pair_offsets(5).tolist()
    plain, mirrored = compute_all_path_affinities(boundary, 5), compute_all_path_affinities(boundary.flip(1), 5)
    for index, (down, across) in enumerate(offsets):
        if down:  # the mirrored pair is another pair of the list; within a row its ends are swapped
            torch.testing.assert_close(mirrored[offsets.index([down, -across])].flip(1), plain[index])
        else:
            torch.testing.assert_close(mirrored[index].flip(1)[:, across:], plain[index][:, :-across])

"""What lies on the path between two cells: which cells, their maximum, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.kernels.pairs import pair_offsets, source_window
from stages.kernels.paths import affinities_between_all, path_affinities, path_cells, path_maxima


@pytest.mark.parametrize(("offset", "cells"), [
    ((0, 2), [(0, 0), (0, 1), (0, 2)]), ((3, 0), [(0, 0), (1, 0), (2, 0), (3, 0)]),
    # Across the corner both neighbours are 0.7 of a cell away from the line.
    ((1, -1), [(0, 0), (0, -1), (1, 0), (1, -1)]), ((1, 2), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)])])
def test_paths_by_hand(offset, cells):
    assert {*map(tuple, path_cells(offset).tolist())} == {*cells}
    assert tuple(path_cells(offset)[0]) == (0, 0)


def test_a_cell_exactly_one_away_is_not_on_the_path():
    cells = {*map(tuple, path_cells((3, 4)).tolist())}
    assert not {(1, 3), (2, 1)} & cells and {(1, 1), (1, 2), (2, 2), (2, 3)} <= cells


@pytest.mark.parametrize("radius", [5, 10])
def test_a_path_is_a_chain_with_both_ends_and_the_same_from_the_other_side(radius):
    for offset in pair_offsets(radius):
        cells = {*map(tuple, path_cells(offset).tolist())}
        assert {(0, 0), tuple(offset.tolist())} <= cells
        assert cells == {(offset[0] - row, offset[1] - column) for row, column in cells}
        steps = {(row - one, column - other) for row, column in cells for one, other in cells}
        assert {max(abs(row), abs(column)) for row, column in steps} == set(range(np.abs(offset).max() + 1))


def brute_force(boundary: torch.Tensor, radius: int) -> torch.Tensor:
    rows, columns = source_window((boundary.shape[1], boundary.shape[2]), radius)
    return torch.stack([torch.stack([
        torch.stack([boundary[:, row + down, column + across] for down, across in path_cells(offset)]).amax(0)
        for row in range(rows.start, rows.stop) for column in range(columns.start, columns.stop)], -1)
        for offset in pair_offsets(radius)], 1)


def test_maxima_are_those_on_the_path_and_so_is_their_gradient():
    boundary = torch.rand(2, 8, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = path_maxima(boundary, 4)
    assert found.shape == (2, 22, 5, 5)
    torch.testing.assert_close(found.flatten(2), brute_force(boundary, 4), rtol=0, atol=0)
    small = boundary[:1, :6, :9].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: path_affinities(given, 4), small)


def test_of_equal_values_one_has_the_gradient():
    boundary = torch.full((1, 6, 9), 0.5, dtype=torch.float64, requires_grad=True)
    path_maxima(boundary, 4).sum().backward()
    gradient = boundary.grad[0]
    assert gradient.sum() == 22 * 3 * 3
    assert (gradient[source_window((6, 9), 4)] == 22).all() and gradient.count_nonzero() == 9


def test_the_gradient_is_the_same_as_without_keeping_less():
    boundary = torch.rand(1, 12, 22, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.rand_like(path_maxima(boundary, 10))
    (path_maxima(boundary, 10) * weights).sum().backward()
    plain = boundary.detach().clone().requires_grad_()
    (brute_force(plain, 10) * weights.flatten(2)).sum().backward()
    torch.testing.assert_close(boundary.grad, plain.grad)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 5)])
def test_maps_without_room_have_no_pairs_but_those_within(size):
    boundary = torch.rand(1, *size, requires_grad=True)
    found = path_affinities(boundary, 5)
    assert found.shape[:2] == (1, 34) and found.numel() == 0
    found.sum().backward()
    assert not boundary.grad.any()
    whole = affinities_between_all(boundary.detach()[0], 5)
    assert whole.shape == (34, *size)


def test_every_cell_has_its_pairs_within_the_map_and_none_beyond():
    boundary = torch.rand(7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = affinities_between_all(boundary, 5)
    for (down, across), affinity in zip(pair_offsets(5).tolist(), found, strict=True):
        for row in range(7):
            for column in range(9):
                inside = row + down < 7 and 0 <= column + across < 9
                cells = path_cells((down, across)) + np.array([row, column])
                expected = 1 - boundary[cells[:, 0], cells[:, 1]].max() if inside else 0.0
                assert affinity[row, column] == expected


def test_mirrored_boundaries_have_mirrored_affinities():
    boundary = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    offsets = pair_offsets(5).tolist()
    plain, mirrored = affinities_between_all(boundary, 5), affinities_between_all(boundary.flip(1), 5)
    for place, (down, across) in enumerate(offsets):
        if down:  # the pair mirrored is another pair of the list; along a row its ends are exchanged
            torch.testing.assert_close(mirrored[offsets.index([down, -across])].flip(1), plain[place])
        else:
            torch.testing.assert_close(mirrored[place].flip(1)[:, across:], plain[place][:, :-across])

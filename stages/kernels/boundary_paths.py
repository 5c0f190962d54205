"""The highest boundary on the path between two neighbouring cells of a map, and the affinity that follows from it.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN, CVPR 2019),
section 4: two cells are similar when no boundary separates them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.kernels.cell_pairs import compute_pair_offsets, compute_source_window, slice_partners


def list_path_cells(offset: tuple[int, int]) -> np.ndarray:
    """List the cells (L, 2) int64, as (row, column) from the source, on the path to the cell `offset` away.

    The path has the cells in the bounding box of the two that are less than one cell away from the line between
    them, both ends included (IRN's released code). The source comes first.
    """
    down, across = int(offset[0]), int(offset[1])
    rows, columns = np.meshgrid(_count_to(down), _count_to(across), indexing="ij")
    # The distance from the line multiplied by the line's length: integers, so rounding can't decide.
    is_near = (down * columns - across * rows) ** 2 < down * down + across * across
    return np.stack([rows[is_near], columns[is_near]], 1).astype(np.int64)


def _count_to(end: int) -> np.ndarray:
    """Return the integers from 0 to `end` inclusive, downwards where `end` is negative."""
    return np.arange(0, end + 1) if end >= 0 else np.arange(0, end - 1, -1)


def compute_path_maxima(boundary: Tensor, radius: int) -> Tensor:
    """Return (B, P, h', w'): the largest value of `boundary` (B, h, w) on the path of every pair.

    Pairs and (h', w') are those of `compute_pair_offsets` and `compute_source_window`. The gradient flows to the cell
    with the largest value, the first one on ties. For the backward pass one byte per pair is saved instead of the
    values on the path (14 for radius 10).
    """
    return _PathMaxima.apply(boundary, radius)


class _PathMaxima(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, boundary: Tensor, radius: int) -> Tensor:
        maxima = [_find_path_maximum(boundary, offset, radius, ctx.needs_input_grad[0])
                  for offset in compute_pair_offsets(radius)]
        ctx.save_for_backward(torch.stack([index for _, index in maxima], 1))
        ctx.radius, ctx.size = radius, boundary.shape
        return torch.stack([value for value, _ in maxima], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        maximum_index, = ctx.saved_tensors
        batch_size, height, width = ctx.size
        result = gradient.new_zeros((batch_size, height * width))
        sources = torch.arange(height * width, device=gradient.device).view(height, width)
        sources = sources[compute_source_window((height, width), ctx.radius)]
        for index, offset in enumerate(compute_pair_offsets(ctx.radius)):
            distances = torch.from_numpy(list_path_cells(offset) @ [width, 1]).to(gradient.device)
            cells = sources + distances[maximum_index[:, index].long()]
            result.scatter_add_(1, cells.flatten(1), gradient[:, index].flatten(1))
        return result.view(ctx.size), None


def _find_path_maximum(boundary: Tensor, offset: tuple[int, int], radius: int, needs_index: bool,
                       ) -> tuple[Tensor, Tensor]:
    """Return the largest value on the path of all pairs of one offset, and with `needs_index` its position there."""
    maximum = slice_partners(boundary, (0, 0), radius).clone()
    maximum_index = torch.zeros(maximum.shape, dtype=torch.uint8, device=boundary.device)
    for index, cell in enumerate(list_path_cells(offset)[1:], start=1):
        value = slice_partners(boundary, cell, radius)
        if needs_index:
            # Indices increase, so the last cell that raised the maximum wins; masked_fill_ takes three times as long.
            torch.maximum(maximum_index, (value > maximum).view(torch.uint8).mul_(index), out=maximum_index)
        torch.maximum(maximum, value, out=maximum)
    return maximum, maximum_index


def compute_path_affinities(boundary: Tensor, radius: int) -> Tensor:
    """Return (B, P, h', w'): the affinity 1 - max of `boundary` (B, h, w) in [0, 1] on the path of every pair."""
    return 1 - compute_path_maxima(boundary, radius)


def compute_all_path_affinities(boundary: Tensor, radius: int) -> Tensor:
    """Return the affinities (P, h, w) of all cells of `boundary` (h, w) with their partners, 0 for those outside.

    The partner of a cell lies one of the offsets of `compute_pair_offsets` away. A wall of boundary 1 around the map
    makes every cell a source (IRN's released code; PSA has no pairs along the border).
    """
    reach = radius - 1
    walled = torch.nn.functional.pad(boundary[None], (reach, reach, 0, reach), value=1.0)
    return compute_path_affinities(walled, radius)[0]

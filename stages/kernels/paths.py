"""What lies between two neighbouring cells of a map: the highest boundary on the path from one to the other.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN, CVPR 2019),
section 4: cells are alike when no boundary separates them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.kernels.pairs import pair_offsets, partners, source_window


def path_cells(offset: tuple[int, int]) -> np.ndarray:
    """Return the cells (L, 2) int64, as (rows, columns) from the source, on the path to the cell `offset` away.

    Those of the two's bounding box less than a cell away from the line between them, both ends included (IRN's
    released code); the source comes first.
    """
    down, across = int(offset[0]), int(offset[1])
    rows, columns = np.meshgrid(_between(down), _between(across), indexing="ij")
    # The distance from the line, times its length: whole numbers, so no rounding decides.
    near = (down * columns - across * rows) ** 2 < down * down + across * across
    return np.stack([rows[near], columns[near]], 1).astype(np.int64)


def _between(end: int) -> np.ndarray:
    return np.arange(0, end + 1) if end >= 0 else np.arange(0, end - 1, -1)


def path_maxima(boundary: Tensor, radius: int) -> Tensor:
    """Return (B, P, h', w'): the largest value of `boundary` (B, h, w) on the path of every pair.

    Pairs and (h', w') are those of `pair_offsets` and `source_window`. The gradient goes to the cell with the largest
    value, the first of several. Kept for it is one byte a pair, and not the values on the path (14 for radius 10).
    """
    return _PathMaxima.apply(boundary, radius)


class _PathMaxima(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, boundary: Tensor, radius: int) -> Tensor:
        found = [_highest(boundary, offset, radius, ctx.needs_input_grad[0]) for offset in pair_offsets(radius)]
        ctx.save_for_backward(torch.stack([number for _, number in found], 1))
        ctx.radius, ctx.size = radius, boundary.shape
        return torch.stack([value for value, _ in found], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        highest, = ctx.saved_tensors
        count, height, width = ctx.size
        result = gradient.new_zeros((count, height * width))
        sources = torch.arange(height * width, device=gradient.device).view(height, width)
        sources = sources[source_window((height, width), ctx.radius)]
        for place, offset in enumerate(pair_offsets(ctx.radius)):
            distances = torch.from_numpy(path_cells(offset) @ [width, 1]).to(gradient.device)
            cells = sources + distances[highest[:, place].long()]
            result.scatter_add_(1, cells.flatten(1), gradient[:, place].flatten(1))
        return result.view(ctx.size), None


def _highest(boundary: Tensor, offset: tuple[int, int], radius: int, tell: bool) -> tuple[Tensor, Tensor]:
    """Return (the largest value on the path, with `tell` the number of its cell) of all pairs of one offset."""
    largest = partners(boundary, (0, 0), radius).clone()
    number = torch.zeros(largest.shape, dtype=torch.uint8, device=boundary.device)
    for place, cell in enumerate(path_cells(offset)[1:], start=1):
        value = partners(boundary, cell, radius)
        if tell:
            # Numbers rise, so the last cell that was higher wins; masked_fill_ takes three times as long.
            torch.maximum(number, (value > largest).view(torch.uint8).mul_(place), out=number)
        torch.maximum(largest, value, out=largest)
    return largest, number


def path_affinities(boundary: Tensor, radius: int) -> Tensor:
    """Return (B, P, h', w'): the affinity 1 - max of `boundary` (B, h, w) in [0, 1] on the path of every pair."""
    return 1 - path_maxima(boundary, radius)


def affinities_between_all(boundary: Tensor, radius: int) -> Tensor:
    """Return (P, h, w): the affinity of every cell of `boundary` (h, w) with the one `pair_offsets` away, 0 outside.

    A wall of boundary 1 around the map makes every cell a source (IRN's released code; PSA has no pairs along the
    border).
    """
    reach = radius - 1
    walled = torch.nn.functional.pad(boundary[None], (reach, reach, 0, reach), value=1.0)
    return path_affinities(walled, radius)[0]

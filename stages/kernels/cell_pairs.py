"""Pairs of neighbouring cells of a map, and the distance between the features of a pair: the basis of affinities.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision" (PSA, CVPR 2018), section 3.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def compute_pair_offsets(radius: int) -> np.ndarray:
    """Return the offsets (P, 2) int64 as (rows, columns) from a cell to its partners closer than `radius`.

    Each pair counts once: partners lie to the right or below. The order is PSA's; radius 5 has 34 offsets. Raises
    ValueError for a radius below 2, which has no pairs.
    """
    if radius < 2:
        raise ValueError(f"radius {radius} leaves no pairs: it must be 2 or more")
    right = [(0, across) for across in range(1, radius)]
    below = [(down, across) for down in range(1, radius) for across in range(1 - radius, radius)
             if down * down + across * across < radius * radius]
    return np.array(right + below, dtype=np.int64)


def compute_source_window(size: tuple[int, int], radius: int) -> tuple[slice, slice]:
    """Return the (rows, columns) of the cells of a map of `size` whose partners are all inside the map.

    Cells less than `radius` - 1 from the left, right or lower border are not sources, so there are no pairs along the
    border (PSA's released code). The window is empty where the map is smaller than that.
    """
    reach = radius - 1
    return slice(0, max(size[0] - reach, 0)), slice(reach, max(size[1] - reach, reach))


def compute_smallest_map_size(radius: int) -> tuple[int, int]:
    """Return the (h, w) of the smallest map that has a pair closer than `radius`: see `compute_source_window`."""
    return radius, 2 * radius - 1


def slice_partners(maps: Any, offset: tuple[int, int], radius: int) -> Any:
    """Return the part of `maps` (..., h, w) that lies `offset` away from the source cells."""
    rows, columns = compute_source_window((maps.shape[-2], maps.shape[-1]), radius)
    down, across = int(offset[0]), int(offset[1])
    return maps[..., rows.start + down:rows.stop + down, columns.start + across:columns.stop + across]


def compute_pair_distances(features: Tensor, radius: int) -> Tensor:
    """Return (B, P, h', w'): the mean absolute difference of features (B, D, h, w) over the channels, for all pairs.

    (h', w') are the sources' rows and columns, see `compute_source_window`. The backward pass recomputes the
    differences offset by offset, so training needs the memory of one offset and not of P of them.
    """
    return _PairDistances.apply(features, radius)


class _PairDistances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: int) -> Tensor:
        ctx.save_for_backward(features)
        ctx.radius = radius
        source = slice_partners(features, (0, 0), radius)
        return torch.stack([(source - slice_partners(features, offset, radius)).abs().mean(1)
                            for offset in compute_pair_offsets(radius)], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        features, = ctx.saved_tensors
        result = torch.zeros_like(features)
        source = slice_partners(features, (0, 0), ctx.radius)
        source_gradient = slice_partners(result, (0, 0), ctx.radius)
        for index, offset in enumerate(compute_pair_offsets(ctx.radius)):
            channel_gradient = gradient[:, index, None] / features.shape[1]
            offset_gradient = (source - slice_partners(features, offset, ctx.radius)).sign() * channel_gradient
            source_gradient += offset_gradient
            slice_partners(result, offset, ctx.radius).sub_(offset_gradient)
        return result, None


def compute_pair_differences(features: Tensor, radius: int) -> Tensor:
    """Return (B, D, P, h', w'): features (B, D, h, w) of the source minus those of the partner, for all pairs.

    (h', w') are the sources' rows and columns, see `compute_source_window`. The backward pass needs no saved tensors.
    """
    return _PairDifferences.apply(features, radius)


class _PairDifferences(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: int) -> Tensor:
        ctx.radius, ctx.size = radius, features.shape
        source = slice_partners(features, (0, 0), radius)
        return torch.stack([source - slice_partners(features, offset, radius)
                            for offset in compute_pair_offsets(radius)], 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        result = gradient.new_zeros(ctx.size)
        slice_partners(result, (0, 0), ctx.radius).add_(gradient.sum(2))
        for index, offset in enumerate(compute_pair_offsets(ctx.radius)):
            slice_partners(result, offset, ctx.radius).sub_(gradient[:, :, index])
        return result, None


def scatter_pairs_to_map(values: np.ndarray, size: tuple[int, int], radius: int) -> np.ndarray:
    """Return (P, h, w): pair values (P, h', w') at their source cells, and 0 where a cell is not a source."""
    result = np.zeros((len(values), *size), dtype=values.dtype)
    rows, columns = compute_source_window(size, radius)
    result[:, rows, columns] = values
    return result

"""Pairs of neighbouring cells of a map, and what a pair has in common: the ground of affinities.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision" (PSA, CVPR 2018), section 3.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def pair_offsets(radius: int) -> np.ndarray:
    """Return the offsets (P, 2) int64 as (rows, columns) from a cell to its partners closer than `radius`.

    Each pair counts once: partners lie to the right or below. In PSA's order; 34 of them for radius 5. Raises
    ValueError for a radius below 2, which has no pairs.
    """
    if radius < 2:
        raise ValueError(f"radius {radius} leaves no pairs: give 2 or more")
    right = [(0, across) for across in range(1, radius)]
    below = [(down, across) for down in range(1, radius) for across in range(1 - radius, radius)
             if down * down + across * across < radius * radius]
    return np.array(right + below, dtype=np.int64)


def source_window(size: tuple[int, int], radius: int) -> tuple[slice, slice]:
    """Return the (rows, columns) of the cells of a map of `size` that have all their partners inside the map.

    Those less than `radius` - 1 from the left, right or lower border don't, so pairs along the border don't exist
    (PSA's released code). Empty where the map is smaller than that.
    """
    reach = radius - 1
    return slice(0, max(size[0] - reach, 0)), slice(reach, max(size[1] - reach, reach))


def smallest_map(radius: int) -> tuple[int, int]:
    """Return the (h, w) of the smallest map that has any pair closer than `radius`: see `source_window`."""
    return radius, 2 * radius - 1


def partners(maps: Any, offset: tuple[int, int], radius: int) -> Any:
    """Return the part of `maps` (..., h, w) that lies `offset` away from the sources."""
    rows, columns = source_window((maps.shape[-2], maps.shape[-1]), radius)
    down, across = int(offset[0]), int(offset[1])
    return maps[..., rows.start + down:rows.stop + down, columns.start + across:columns.stop + across]


def pair_distances(features: Tensor, radius: int) -> Tensor:
    """Return (B, P, h', w'): the mean absolute difference of features (B, D, h, w) over the channels, for all pairs.

    (h', w') are the sources' rows and columns, see `source_window`. Its gradient is worked out anew, offset by offset,
    so the memory for training is that of one offset and not of P of them.
    """
    return _PairDistances.apply(features, radius)


class _PairDistances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: int) -> Tensor:
        ctx.save_for_backward(features)
        ctx.radius = radius
        source = partners(features, (0, 0), radius)
        return torch.stack([(source - partners(features, offset, radius)).abs().mean(1)
                            for offset in pair_offsets(radius)], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        features, = ctx.saved_tensors
        result = torch.zeros_like(features)
        source, onto_source = partners(features, (0, 0), ctx.radius), partners(result, (0, 0), ctx.radius)
        for place, offset in enumerate(pair_offsets(ctx.radius)):
            share = gradient[:, place, None] / features.shape[1]
            part = (source - partners(features, offset, ctx.radius)).sign() * share
            onto_source += part
            partners(result, offset, ctx.radius).sub_(part)
        return result, None


def pair_differences(features: Tensor, radius: int) -> Tensor:
    """Return (B, D, P, h', w'): features (B, D, h, w) of the source less those of the partner, for all pairs.

    (h', w') are the sources' rows and columns, see `source_window`. Nothing is kept for the gradient.
    """
    return _PairDifferences.apply(features, radius)


class _PairDifferences(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: int) -> Tensor:
        ctx.radius, ctx.size = radius, features.shape
        source = partners(features, (0, 0), radius)
        return torch.stack([source - partners(features, offset, radius) for offset in pair_offsets(radius)], 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        result = gradient.new_zeros(ctx.size)
        partners(result, (0, 0), ctx.radius).add_(gradient.sum(2))
        for place, offset in enumerate(pair_offsets(ctx.radius)):
            partners(result, offset, ctx.radius).sub_(gradient[:, :, place])
        return result, None


def spread_over_map(values: np.ndarray, size: tuple[int, int], radius: int) -> np.ndarray:
    """Return (P, h, w): pair values (P, h', w') at their sources, and 0 where a cell is no source."""
    result = np.zeros((len(values), *size), dtype=values.dtype)
    rows, columns = source_window(size, radius)
    result[:, rows, columns] = values
    return result

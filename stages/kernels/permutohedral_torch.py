"""Permutohedral lattices of a batch of images in torch, on a CPU or on a GPU.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010). The packed
keys of `permutohedral_keys` also hold the number of the image, so that images of any size share one sorted list of
vertices. Every sum is over a segment of sorted products, in a fixed order and without atomic additions: the values of
an image are the same in every run, and do not depend on the other images of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

_PIECE = 64  # products that are added in sequence; in even areas thousands of pixels touch a vertex


@dataclass(frozen=True)
class Lattice:
    """M vertices, and how N pixels and their values are spread over them; each pixel touches D + 1 vertices.

    Row M of the values of a lattice stands for missing neighbours, and is always zero.
    """

    vertices: Tensor  # (N * (D + 1),) int32, the vertices of each pixel
    weights: Tensor  # (N * (D + 1),) float32
    offsets: Tensor  # (N + 1,) int32
    pixels: Tensor  # (E,) int32, the pixels of each vertex; E also counts the pixels that only add vertices
    pixel_weights: Tensor  # (E,) float32
    pixel_offsets: tuple[Tensor, ...]  # of the pieces of each vertex, and of the sums of pieces, until one is left
    neighbours: Tensor  # (D + 1, 2, M + 1) int32, before and after each vertex along each axis


def build_lattice(features: Tensor, image_numbers: Tensor, positions: Sequence[int], num_pixels: int) -> Lattice:
    """Build the lattice of scaled features (P, D) float32, P >= N, of pixels of the images `image_numbers` (P,) int64.

    `positions` (D + 1,) come from `compute_positions`. The pixels from N on add vertices but have no values.
    """
    coordinates, ranks, weights = elevate_features(features)
    weights[num_pixels:] = 0
    keys = pack_keys(coordinates, ranks, image_numbers, positions).flatten()
    # Stable, so that the sum of a vertex is in the order of its pixels.
    sorted_keys, order = torch.sort(keys, stable=True)
    is_first = torch.cat([sorted_keys.new_ones(1, dtype=torch.bool), sorted_keys[1:] != sorted_keys[:-1]])
    starts, numbers = is_first.nonzero()[:, 0], is_first.cumsum(0) - 1
    ends = torch.cat([starts, starts.new_full((2,), len(keys))])  # row M has no pixels
    num_corners = features.shape[1] + 1
    vertices = torch.empty_like(numbers).scatter_(0, order, numbers)[:num_pixels * num_corners]
    offsets = torch.arange(0, len(vertices) + 1, num_corners, dtype=torch.int32, device=vertices.device)
    return Lattice(vertices.int(), weights[:num_pixels].flatten(), offsets,
                   (order // num_corners).clamp_(max=num_pixels - 1).int(), weights.flatten()[order],
                   split_segments(ends.diff()), find_neighbours(sorted_keys[starts], positions))


def elevate_features(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (coordinates divided by D + 1, their ranks int64, weights of the corners), each (P, D + 1).

    The coordinates are those of the vertex with r = 0 of the simplex around a pixel of scaled features (P, D). Computed
    in the order of pydensecrf, so that float32 is equal bit by bit.
    """
    num_corners = features.shape[1] + 1
    total, elevated = torch.zeros_like(features[:, 0]), []
    for axis in range(num_corners - 1, 0, -1):
        feature = features[:, axis - 1]
        elevated.append(total - feature * axis)
        total = total + feature
    elevation = torch.stack([total, *reversed(elevated)], dim=1)
    rounded = (elevation * (1 / num_corners)).round()
    ranks = rank_residuals(elevation - rounded * num_corners) + rounded.sum(dim=1, keepdim=True).long()
    wrap = (ranks < 0).long() - (ranks >= num_corners).long()
    ranks, coordinates = ranks + wrap * num_corners, rounded + wrap
    residuals = (elevation - coordinates * num_corners) * (1 / num_corners)
    by_rank = torch.empty_like(residuals).scatter_(1, ranks, residuals)
    weights = torch.empty_like(by_rank)
    weights[:, 0] = by_rank[:, -1] + (1 - by_rank[:, 0])
    weights[:, 1:] = by_rank[:, :-1].flip(1) - by_rank[:, 1:].flip(1)
    return coordinates.long(), ranks, weights


def rank_residuals(residuals: Tensor) -> Tensor:
    """Return the rank (P, D + 1) int64 of each residual, 0 for the largest; of equal ones the first is first."""
    before = torch.ones(residuals.shape[1], residuals.shape[1], dtype=torch.bool, device=residuals.device).tril(-1)
    own, other = residuals[:, :, None], residuals[:, None, :]
    return ((other > own) | ((other == own) & before)).sum(dim=2)


def pack_keys(coordinates: Tensor, ranks: Tensor, image_numbers: Tensor, positions: Sequence[int]) -> Tensor:
    """Return the packed keys (P, D + 1) int64 of the corners of the simplex of each pixel."""
    units = _list_units(positions, coordinates.device)
    base = (coordinates * units).sum(dim=1) + (image_numbers << positions[-1])
    steps = torch.empty_like(ranks).scatter_(1, ranks, units.expand_as(ranks))
    keys = torch.empty_like(ranks)
    keys[:, 0] = base
    keys[:, 1:] = base[:, None] + (1 - steps.flip(1))[:, :-1].cumsum(1)
    return keys


def _list_units(positions: Sequence[int], device: torch.device) -> Tensor:
    """Return what one step of each coordinate adds to a key (D + 1,) int64; the last coordinate is not stored."""
    return torch.tensor([1 << position for position in positions[:-1]] + [0], device=device)


def find_neighbours(keys: Tensor, positions: Sequence[int]) -> Tensor:
    """Return the vertices (D + 1, 2, M + 1) int32 before and after each of the sorted `keys` (M,) along each axis.

    A neighbour that is not in the list is M, and so are the neighbours of M.
    """
    num_vertices, dimensions = len(keys), len(positions) - 1
    units, remainders = _list_units(positions, keys.device), keys & 7
    own_numbers = torch.arange(num_vertices, device=keys.device)
    neighbours = torch.full((dimensions + 1, 2, num_vertices + 1), num_vertices, device=keys.device)
    for (before, after), unit in zip(neighbours, units, strict=True):
        # One more in all coordinates but that of the axis, which is then D less; r wraps after D.
        wanted = keys + torch.where(remainders < dimensions, 1 - unit, units.sum() - unit - dimensions)
        index = torch.searchsorted(keys, wanted).clamp_(max=num_vertices - 1)
        after[:-1] = torch.where(keys[index] == wanted, index, num_vertices)
        before.scatter_(0, after[:-1], own_numbers)
        before[-1] = num_vertices
    return neighbours.int()


def split_segments(counts: Tensor) -> tuple[Tensor, ...]:
    """Return the offsets int32 at which segments of `counts` (S,) values are summed: by pieces, then pieces by pieces.

    The last level has one segment for each count. No segment is longer than 64: a thread of a GPU sums a segment alone,
    and the others would wait for it.
    """
    levels = []
    while int(counts.max()) > _PIECE:
        num_pieces = (counts + (_PIECE - 1)) // _PIECE
        starts, piece_starts = counts.cumsum(0) - counts, num_pieces.cumsum(0) - num_pieces
        segment = torch.repeat_interleave(num_pieces)
        in_segment = torch.arange(len(segment), device=counts.device) - piece_starts[segment]
        levels.append(torch.cat([starts[segment] + in_segment * _PIECE, counts.sum()[None]]).int())
        counts = num_pieces
    levels.append(torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int())
    return tuple(levels)


def sum_products(values: Tensor, rows: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Return the sums (S, L) of `values[rows] * weights[:, None]` over the segments that begin at `offsets` (S + 1,).

    On a CPU the products are never stored, which is five times as fast. On a GPU that kernel would use one lane in
    32 for each label.
    """
    if values.device.type == "cpu":
        return F.embedding_bag(rows, values, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
    return sum_segments(values.index_select(0, rows).mul_(weights[:, None]), offsets)


def sum_segments(values: Tensor, offsets: Tensor) -> Tensor:
    """Return the sums (S, L) of the rows of `values` over the segments that begin at `offsets` (S + 1,)."""
    return torch.segment_reduce(values, "sum", offsets=offsets, unsafe=True)


def filter_values(lattice: Lattice, values: Tensor) -> Tensor:
    """Return `values` (N, L) float32 spread over the lattice, blurred along all axes, and interpolated at the pixels.

    Each vertex gains half the sum of its two neighbours along each axis.
    """
    blurred = sum_products(values, lattice.pixels, lattice.pixel_weights, lattice.pixel_offsets[0])
    for offsets in lattice.pixel_offsets[1:]:
        blurred = sum_segments(blurred, offsets)
    for before, after in lattice.neighbours:
        blurred = torch.add(blurred, blurred.index_select(0, before).add_(blurred.index_select(0, after)), alpha=0.5)
    return sum_products(blurred, lattice.vertices, lattice.weights, lattice.offsets)


def scale_weights(lattice: Lattice, splat: Tensor, slices: Tensor) -> Lattice:
    """Return the lattice that multiplies values by `splat` (N,) before it filters them, and by `slices` (N,) after."""
    per_pixel = lattice.weights.view(len(slices), -1)
    return replace(lattice, weights=(per_pixel * slices[:, None]).flatten(),
                   pixel_weights=lattice.pixel_weights * splat.index_select(0, lattice.pixels))

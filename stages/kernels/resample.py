"""Separable bilinear resampling: of tensors by two small matrices, of NumPy arrays by `interpolation` without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from stages.kernels.interpolation import (
    Taps,
    convert_to_float32,
    find_taps,
    interpolate,
    interpolate_in_bands,
)

if TYPE_CHECKING:
    from torch import Tensor

Maps = TypeVar("Maps", np.ndarray, "Tensor")


@lru_cache(maxsize=16)
def build_interpolation_matrix(out: int, size: int, *, scale: float, offset: float = 0.0) -> Tensor:
    """Return the float32 matrix (out, size) that interpolates `out` positions from a line of `size` samples.

    Position y reads coordinate (y + .5) * scale - .5 + offset, linearly between its two neighbours and clamped
    to the first and last sample. With scale = size / n and offset 0 that is row y of a bilinear resize to
    n >= out rows with align_corners False. The images of a data set share few sizes, so the latest matrices are
    cached: callers must not modify them. Raises ValueError for an empty line.
    """
    import torch  # here, because stages without a network start 2 s faster without it
    if size < 1 or out < 0:
        raise ValueError(f"can't interpolate {out} positions from {size} samples")
    with torch.inference_mode(False):  # the cached matrix may be used later with gradients
        # In float64: float32 coordinates are off by up to 1e-4 of a sample beyond 1000 pixels.
        coordinate = (torch.arange(out, dtype=torch.float64) + 0.5) * scale - 0.5 + offset
        coordinate = coordinate.clamp(0, size - 1)
        below = coordinate.floor().to(torch.int64)
        above = (below + 1).clamp(max=size - 1)
        fraction = coordinate - below
        matrix = torch.zeros(out, size, dtype=torch.float64)
        matrix.scatter_add_(1, below[:, None], (1 - fraction)[:, None])
        matrix.scatter_add_(1, above[:, None], fraction[:, None])
        return matrix.to(torch.float32)


def resample(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resample maps (K, h, w) to (H, W) by matrices (H, h) and (W, w): rows @ maps @ columns^T."""
    rows, columns = rows.to(maps.device), columns.to(maps.device)
    maps = maps.float()
    # Widths first: for maps of a quarter of the image that takes 23 instead of 28 million products per class.
    return rows @ (maps @ columns.T)


def upsample(maps: Maps, covers: tuple[int, int], size: tuple[int, int]) -> Maps:
    """Resize `maps` (K, h, w) bilinearly to `covers` and crop them to `size` = (H, W). Return float32 (K, H, W).

    `covers` are the image pixels that the maps span; align_corners is False. Pixels beyond `covers` repeat the
    last row or column. Takes and returns a NumPy array or a tensor, whose values may differ in the last bit.
    """
    height, width = maps.shape[-2:]
    if isinstance(maps, np.ndarray):
        return interpolate(maps, *_find_pixel_taps((height, width), covers, size))
    rows = build_interpolation_matrix(int(size[0]), height, scale=height / int(covers[0]))
    columns = build_interpolation_matrix(int(size[1]), width, scale=width / int(covers[1]))
    return resample(maps, rows, columns)


def upsample_in_bands(maps: np.ndarray, covers: tuple[int, int], size: tuple[int, int], *, band: int = 0,
                      convert: Callable[[np.ndarray], np.ndarray] = convert_to_float32,
                      ) -> Iterator[tuple[slice, np.ndarray]]:
    """Upsample an array (K, h, w) as `upsample` does, a band of rows at a time, with the same values.

    Yield (slice of the rows, float32 (K, rows, W)). The maps of many classes at the size of a large image don't fit
    into memory at once. `convert` and `band` are explained at `interpolate_in_bands`.
    """
    rows, columns = _find_pixel_taps(maps.shape[-2:], covers, size)
    yield from interpolate_in_bands(maps, rows, columns, band=band, convert=convert)


def _find_pixel_taps(grid: tuple[int, ...], covers: tuple[int, int], size: tuple[int, int]) -> tuple[Taps, Taps]:
    """Return what the pixels of an image of `size` read along the height and the width of a map."""
    rows, columns = (find_taps(int(out), length, scale=length / int(covered))
                     for out, length, covered in zip(size, grid, covers, strict=True))
    return rows, columns


def average_cells(maps: np.ndarray, cell: int) -> np.ndarray:
    """Average maps (L, H, W) over squares of `cell` pixels, with zeros beyond the border. Return (L, h, w)."""
    num_maps, height, width = maps.shape
    rows, columns = -(-height // cell), -(-width // cell)
    padded = np.zeros((num_maps, rows * cell, columns * cell), maps.dtype)
    padded[:, :height, :width] = maps
    return padded.reshape(num_maps, rows, cell, columns, cell).mean((2, 4))

"""Separable bilinear resampling written as two small matrices, so that only the wanted pixels are computed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Maps = TypeVar("Maps", np.ndarray, Tensor)


@lru_cache(maxsize=16)
def interpolation_matrix(out: int, size: int, *, scale: float, offset: float = 0.0) -> Tensor:
    """Return the float32 matrix (out, size) that reads `out` positions from a line of `size` samples.

    Position y reads coordinate (y + .5) * scale - .5 + offset, linearly between its two neighbours and clamped
    to the first and last sample. With scale = size / n and offset 0 that is row y of a bilinear resize to
    n >= out rows with align_corners False. The images of a set share few sizes, so the latest are kept: don't change
    what is returned. Raises ValueError for an empty line.
    """
    if size < 1 or out < 0:
        raise ValueError(f"can't read {out} positions from {size} samples")
    with torch.inference_mode(False):  # kept: others may need it with gradients
        # In float64: float32 coordinates are off by up to 1e-4 of a sample beyond 1000 pixels.
        coordinate = (torch.arange(out, dtype=torch.float64) + 0.5) * scale - 0.5 + offset
        coordinate = coordinate.clamp(0, size - 1)
        below = coordinate.floor().to(torch.int64)
        above = (below + 1).clamp(max=size - 1)
        share = coordinate - below
        matrix = torch.zeros(out, size, dtype=torch.float64)
        matrix.scatter_add_(1, below[:, None], (1 - share)[:, None])
        matrix.scatter_add_(1, above[:, None], share[:, None])
        return matrix.to(torch.float32)


def resample(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows @ maps @ columns^T: maps (K, h, w) read at (H, W) by matrices (H, h) and (W, w)."""
    rows, columns = rows.to(maps.device), columns.to(maps.device)
    maps = maps.to(torch.float32)
    # Widths first: for maps of a quarter of the image that is 23 instead of 28 million products a class.
    return rows @ (maps @ columns.T)


def upsample(maps: Maps, covers: tuple[int, int], size: tuple[int, int]) -> Maps:
    """Return float32 (K, H, W): `maps` (K, h, w) resized bilinearly to `covers`, cropped to `size` = (H, W).

    `covers` are the image pixels that the map spans; align_corners is False. Pixels beyond `covers` repeat the
    last row or column. Takes and returns a numpy array or a tensor.
    """
    array = torch.from_numpy(np.ascontiguousarray(maps)) if isinstance(maps, np.ndarray) else maps
    height, width = array.shape[-2:]
    rows = interpolation_matrix(int(size[0]), height, scale=height / int(covers[0]))
    columns = interpolation_matrix(int(size[1]), width, scale=width / int(covers[1]))
    result = resample(array, rows, columns)
    return result.numpy() if isinstance(maps, np.ndarray) else result


def upsampled_bands(maps: np.ndarray, size: tuple[int, int], band: int = 64) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows, float32 (K, rows, W)): `upsample` of maps (K, h, w) to `size`, `band` rows at a time.

    Many classes on a large photograph don't fit into memory at once.
    """
    height, width = maps.shape[-2:]
    rows = interpolation_matrix(size[0], height, scale=height / size[0])
    columns = interpolation_matrix(size[1], width, scale=width / size[1])
    for start in range(0, size[0], band):
        place = slice(start, min(start + band, size[0]))
        if (height, width) == tuple(size):
            yield place, maps[:, place].astype(np.float32)
            continue
        used = torch.nonzero(rows[place].any(dim=0)).ravel()
        source = slice(int(used[0]), int(used[-1]) + 1)
        part = torch.from_numpy(np.ascontiguousarray(maps[:, source]))
        yield place, resample(part, rows[place, source], columns).numpy()


def cell_means(maps: np.ndarray, cell: int) -> np.ndarray:
    """Return (L, h, w): the means of maps (L, H, W) over squares of `cell` pixels, with zeros beyond the border."""
    count, height, width = maps.shape
    rows, columns = -(-height // cell), -(-width // cell)
    padded = np.zeros((count, rows * cell, columns * cell), maps.dtype)
    padded[:, :height, :width] = maps
    return padded.reshape(count, rows, cell, columns, cell).mean((2, 4))

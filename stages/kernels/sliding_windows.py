"""Sliding windows over an image, and the average of their maps.

Follows MMSegmentation's slide inference: windows start at multiples of the stride, and the last one is moved back
inside the image. Where windows overlap their scores are averaged. An image smaller than the window is one window of its
own size.

Windows lie on a grid, so the number of windows that cover a pixel is a product of its row's and its column's count.
Resizing the maps of each window, averaging them and resizing the mean can therefore be done by one matrix for the rows
and one for the columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.resample import build_interpolation_matrix, resample


@dataclass(frozen=True)
class SlidingWindows:
    """Windows over an image of `size` (H, W): squares of `side` pixels every `stride` pixels, padded to whole cells."""

    size: tuple[int, int]
    side: int
    stride: int
    cell: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for a stride that would leave gaps between windows."""
        if not 0 < self.stride <= self.side or self.cell < 1 or min(self.size) < 1:
            raise ValueError(f"windows of {self.side} pixels every {self.stride} pixels don't cover all of {self.size}")

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and columns of windows."""
        return len(self.list_starts(0)), len(self.list_starts(1))

    def list_starts(self, axis: int) -> list[int]:
        """List the first pixel of each window along the rows (0) or columns (1)."""
        last = max(self.size[axis] - self.side, 0)
        return [min(step * self.stride, last) for step in range(-(-last // self.stride) + 1)]

    def get_window_length(self, axis: int) -> int:
        """Return the length of a window along an axis, in pixels."""
        return min(self.side, self.size[axis])

    def compute_padding(self, axis: int) -> tuple[int, int]:
        """Return the padding (before, after) that makes a window whole cells; the smaller half comes first."""
        total = -self.get_window_length(axis) % self.cell
        return total // 2, total - total // 2

    def crop(self, image: Tensor) -> Tensor:
        """Crop the windows (M, C, H', W'), row by row, from `image` (C, H, W); they are padded with zeros."""
        height, width = self.get_window_length(0), self.get_window_length(1)
        crops = [image[:, top:top + height, left:left + width]
                 for top in self.list_starts(0) for left in self.list_starts(1)]
        return F.pad(torch.stack(crops), (*self.compute_padding(1), *self.compute_padding(0)))

    def blend(self, maps: Tensor, out: tuple[int, int]) -> Tensor:
        """Average the windows' maps (M, K, h, w) and resize the mean bilinearly to `out` (H, W). Return (K, H, W)."""
        mosaic = maps.unflatten(0, self.shape).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
        rows = self._build_blend_matrix(0, maps.shape[-2], out[0])
        return resample(mosaic, rows, self._build_blend_matrix(1, maps.shape[-1], out[1]))

    def _build_blend_matrix(self, axis: int, num_cells: int, out: int) -> Tensor:
        """Return the matrix (out, windows x cells) from the cells of all windows along an axis to output pixels."""
        length, (before, after), size = self.get_window_length(axis), self.compute_padding(axis), self.size[axis]
        padded = length + before + after
        window = build_interpolation_matrix(padded, num_cells, scale=num_cells / padded)[before:before + length]
        starts = self.list_starts(axis)
        total = torch.zeros(size, len(starts), num_cells)
        for index, start in enumerate(starts):
            total[start:start + length, index] = window
        num_windows = sum(torch.zeros(size).index_fill(0, torch.arange(start, start + length), 1) for start in starts)
        mean = total.flatten(1) / num_windows[:, None]
        return mean if out == size else build_interpolation_matrix(out, size, scale=size / out) @ mean

"""Sliding windows over an image that is not to be seen at once, and the mean of what they give.

The rule of MMSegmentation's slide inference: windows at multiples of the stride, the last one pushed back inside; where
several windows see a pixel their scores are averaged; an image smaller than the window is one window of its own size.

Windows lie on a grid, so how often a pixel is seen is a product of its row's and its column's count. Resizing each
window's maps, averaging and resizing the mean are therefore together one matrix for the rows and one for the columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.resample import interpolation_matrix, resample


@dataclass(frozen=True)
class Windows:
    """The windows of an image of `size` (H, W): squares of `side` pixels every `stride`, padded to whole cells."""

    size: tuple[int, int]
    side: int
    stride: int
    cell: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for a stride that would leave pixels between windows unseen."""
        if not 0 < self.stride <= self.side or self.cell < 1 or min(self.size) < 1:
            raise ValueError(f"windows of {self.side} pixels every {self.stride} leave some of {self.size} unseen")

    @property
    def shape(self) -> tuple[int, int]:
        """How many windows there are below and beside each other."""
        return len(self.starts(0)), len(self.starts(1))

    def starts(self, axis: int) -> list[int]:
        """Return the first pixel of the windows along rows (0) or columns (1)."""
        room = max(self.size[axis] - self.side, 0)
        return [min(step * self.stride, room) for step in range(-(-room // self.stride) + 1)]

    def length(self, axis: int) -> int:
        """Return the pixels of a window along an axis."""
        return min(self.side, self.size[axis])

    def padding(self, axis: int) -> tuple[int, int]:
        """Return the pixels before and behind a window that make it whole cells; the smaller half comes first."""
        more = -self.length(axis) % self.cell
        return more // 2, more - more // 2

    def cut(self, image: Tensor) -> Tensor:
        """Return the windows (M, C, H', W'), row by row, of `image` (C, H, W), padded with zeros."""
        height, width = self.length(0), self.length(1)
        parts = [image[:, top:top + height, left:left + width] for top in self.starts(0) for left in self.starts(1)]
        return F.pad(torch.stack(parts), (*self.padding(1), *self.padding(0)))

    def blend(self, maps: Tensor, out: tuple[int, int]) -> Tensor:
        """Return the mean (K, H, W) of the windows' maps (M, K, h, w), resized bilinearly to `out` (H, W)."""
        down, across = self.shape
        mosaic = maps.unflatten(0, (down, across)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
        rows = self._matrix(0, maps.shape[-2], out[0])
        return resample(mosaic, rows, self._matrix(1, maps.shape[-1], out[1]))

    def _matrix(self, axis: int, cells: int, out: int) -> Tensor:
        """Return (out, windows x cells): from the cells of all windows along an axis to pixels of the result."""
        length, (before, behind), whole = self.length(axis), self.padding(axis), self.size[axis]
        padded = length + before + behind
        pixels = interpolation_matrix(padded, cells, scale=cells / padded)[before:before + length]
        starts = self.starts(axis)
        seen = torch.zeros(whole, len(starts), cells)
        for place, start in enumerate(starts):
            seen[start:start + length, place] = pixels
        count = sum(torch.zeros(whole).index_fill(0, torch.arange(start, start + length), 1) for start in starts)
        mean = seen.flatten(1) / count[:, None]
        return mean if out == whole else interpolation_matrix(out, whole, scale=whole / out) @ mean

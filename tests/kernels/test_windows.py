"""Sliding windows: where they lie, that every pixel is seen, and their mean as two matrices."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stages.kernels.windows import Windows


def slow(windows: Windows, maps: torch.Tensor, out: tuple[int, int]) -> torch.Tensor:
    """Return the blend window by window: resize, cut, add, divide, resize."""
    total, count = torch.zeros(maps.shape[1], *windows.size), torch.zeros(windows.size)
    places = [(top, left) for top in windows.starts(0) for left in windows.starts(1)]
    height, width = windows.length(0), windows.length(1)
    (top_pad, low_pad), (left_pad, right_pad) = windows.padding(0), windows.padding(1)
    for (top, left), one in zip(places, maps, strict=True):
        padded = F.interpolate(one[None], (height + top_pad + low_pad, width + left_pad + right_pad), mode="bilinear",
                               align_corners=False)[0]
        total[:, top:top + height, left:left + width] += padded[:, top_pad:top_pad + height,
                                                                left_pad:left_pad + width]
        count[top:top + height, left:left + width] += 1
    return F.interpolate((total / count)[None], out, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("size", [(336, 448), (336, 336), (224, 224), (100, 300), (37, 41), (1, 500), (225, 224)])
def test_blend_is_that_of_window_by_window(size):
    windows = Windows(size, side=224, stride=112, cell=16)
    count = windows.shape[0] * windows.shape[1]
    grid = [(windows.length(axis) + sum(windows.padding(axis))) // 16 for axis in (0, 1)]
    maps = torch.rand(count, 3, *grid, generator=torch.Generator().manual_seed(0))
    for out in (size, (53, 71)):
        torch.testing.assert_close(windows.blend(maps, out), slow(windows, maps, out), atol=1e-5, rtol=0)


def test_places_of_the_windows():
    assert Windows((336, 500), 224, 112).starts(1) == [0, 112, 224, 276]
    assert Windows((336, 500), 224, 112).starts(0) == [0, 112]
    assert Windows((200, 224), 224, 112).shape == (1, 1)
    assert Windows((37, 224), 224, 112, 16).padding(0) == (5, 6)


def test_windows_are_cut_and_padded():
    image = torch.arange(3 * 5 * 9, dtype=torch.float32).reshape(3, 5, 9)
    parts = Windows((5, 9), side=6, stride=4, cell=4).cut(image)
    assert parts.shape == (2, 3, 8, 8)
    torch.testing.assert_close(parts[1][:, 1:6, 1:7], image[:, :, 3:])
    assert not parts[:, :, 0].any() and not parts[:, :, 6:].any()


def test_a_stride_that_leaves_pixels_out():
    with pytest.raises(ValueError, match="unseen"):
        Windows((100, 100), side=10, stride=11)

"""Sliding windows: their positions, coverage of all pixels, and blending by two matrices."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stages.kernels.sliding_windows import SlidingWindows


def blend_by_loop(windows: SlidingWindows, maps: torch.Tensor, out: tuple[int, int]) -> torch.Tensor:
    """Blend window by window: resize, crop, add, divide, resize."""
    total, num_windows = torch.zeros(maps.shape[1], *windows.size), torch.zeros(windows.size)
    corners = [(top, left) for top in windows.list_starts(0) for left in windows.list_starts(1)]
    height, width = windows.get_window_length(0), windows.get_window_length(1)
    (top_pad, low_pad), (left_pad, right_pad) = windows.compute_padding(0), windows.compute_padding(1)
    for (top, left), window_maps in zip(corners, maps, strict=True):
        padded_size = (height + top_pad + low_pad, width + left_pad + right_pad)
        padded = F.interpolate(window_maps[None], padded_size, mode="bilinear", align_corners=False)[0]
        total[:, top:top + height, left:left + width] += padded[:, top_pad:top_pad + height,
                                                                left_pad:left_pad + width]
        num_windows[top:top + height, left:left + width] += 1
    return F.interpolate((total / num_windows)[None], out, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("size", [(336, 448), (336, 336), (224, 224), (100, 300), (37, 41), (1, 500), (225, 224)])
def test_blend_equals_loop_over_windows(size):
    windows = SlidingWindows(size, side=224, stride=112, cell=16)
    num_windows = windows.shape[0] * windows.shape[1]
    grid = [(windows.get_window_length(axis) + sum(windows.compute_padding(axis))) // 16 for axis in (0, 1)]
    maps = torch.rand(num_windows, 3, *grid, generator=torch.Generator().manual_seed(0))
    for out in (size, (53, 71)):
        torch.testing.assert_close(windows.blend(maps, out), blend_by_loop(windows, maps, out), atol=1e-5, rtol=0)


def test_window_positions():
    assert SlidingWindows((336, 500), 224, 112).list_starts(1) == [0, 112, 224, 276]
    assert SlidingWindows((336, 500), 224, 112).list_starts(0) == [0, 112]
    assert SlidingWindows((200, 224), 224, 112).shape == (1, 1)
    assert SlidingWindows((37, 224), 224, 112, 16).compute_padding(0) == (5, 6)


def test_windows_are_cropped_and_padded():
    image = torch.arange(3 * 5 * 9, dtype=torch.float32).reshape(3, 5, 9)
    crops = SlidingWindows((5, 9), side=6, stride=4, cell=4).crop(image)
    assert crops.shape == (2, 3, 8, 8)
    torch.testing.assert_close(crops[1][:, 1:6, 1:7], image[:, :, 3:])
    assert not crops[:, :, 0].any() and not crops[:, :, 6:].any()


def test_stride_with_gaps_raises():
    with pytest.raises(ValueError, match="don't cover all"):
        SlidingWindows((100, 100), side=10, stride=11)

"""Images resized to a short side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.data.views import short_side_image, short_side_size


@pytest.mark.parametrize(("size", "wanted"), [
    ((375, 500), (336, 448)), ((500, 375), (448, 336)), ((1024, 2048), (336, 672)), ((100, 1000), (205, 2048)),
    ((1, 5000), (1, 2048)), ((1, 1), (336, 336)), ((500, 334), (503, 336))])
def test_sizes_are_mmcv_s(size, wanted):
    assert short_side_size(size, 336, 2048) == wanted


@pytest.mark.parametrize("size", [(50, 70), (24, 30), (40, 52), (92, 184)])
def test_pixels_are_read_between_their_neighbours(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = short_side_image(image, 40, 2048, smooth=False)
    wanted = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].float(), found.shape[:2], mode="bilinear",
                           align_corners=False)[0].permute(1, 2, 0).numpy()
    assert found.dtype == np.uint8 and min(found.shape[:2]) == 40
    assert np.abs(found - wanted).max() <= 0.501


def test_below_half_the_size_no_pixel_is_left_out_of_a_smoothed_image():
    image = np.zeros((800, 800, 3), np.uint8)
    image[:, ::8] = 255
    assert abs(short_side_image(image, 100, 2048, smooth=True).mean() - 255 / 8) < 2
    assert not short_side_image(image, 100, 2048, smooth=False).any()

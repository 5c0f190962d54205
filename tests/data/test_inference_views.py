"""Resizing images to a short side and to a square."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.data.inference_views import build_square_view, compute_short_side_size, resize_short_side


@pytest.mark.parametrize(("size", "expected"), [
    ((375, 500), (336, 448)), ((500, 375), (448, 336)), ((1024, 2048), (336, 672)), ((100, 1000), (205, 2048)),
    ((1, 5000), (1, 2048)), ((1, 1), (336, 336)), ((500, 334), (503, 336))])
def test_sizes_equal_those_of_mmcv(size, expected):
    assert compute_short_side_size(size, 336, 2048) == expected


@pytest.mark.parametrize("size", [(50, 70), (24, 30), (40, 52), (92, 184)])
def test_pixels_are_interpolated_without_antialiasing(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    resized = resize_short_side(image, 40, 2048, smooth=False)
    expected = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].float(), resized.shape[:2], mode="bilinear",
                           align_corners=False)[0].permute(1, 2, 0).numpy()
    assert resized.dtype == np.uint8 and min(resized.shape[:2]) == 40
    assert np.abs(resized - expected).max() <= 0.501


def test_reductions_below_half_the_size_are_antialiased_on_request():
    image = np.zeros((800, 800, 3), np.uint8)
    image[:, ::8] = 255
    assert abs(resize_short_side(image, 100, 2048, smooth=True).mean() - 255 / 8) < 2
    assert not resize_short_side(image, 100, 2048, smooth=False).any()


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("size", [(40, 30), (64, 20), (65, 20), (20, 200)])
def test_square_views_are_normalised_and_then_resized(size, smooth):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    view = build_square_view(image, 32, mean, std, smooth=smooth)
    normalised = (torch.from_numpy(image) / 255 - torch.tensor(mean)) / torch.tensor(std)
    expected = F.interpolate(normalised.permute(2, 0, 1)[None], (32, 32), mode="bilinear",
                             antialias=smooth and max(size) > 64)[0]
    assert view.dtype == np.float32
    np.testing.assert_allclose(view, expected, atol=1e-5)

"""Bilinear resampling by matrices, compared with torch's interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.kernels.resample import build_interpolation_matrix, upsample, upsample_in_bands


@pytest.mark.parametrize(
    ("grid", "covers", "size"),
    [
        ((3, 4), (48, 64), (37, 50)),
        ((10, 13), (40, 52), (37, 50)),
        ((1, 1), (16, 16), (5, 9)),
        ((9, 9), (4, 5), (4, 5)),
    ],
)
def test_upsample_equals_resize_and_crop(grid, covers, size):
    maps = torch.rand(2, *grid, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(maps[None], covers, mode="bilinear", align_corners=False)[0, :, : size[0], : size[1]]
    torch.testing.assert_close(upsample(maps, covers, size), expected, rtol=1e-5, atol=1e-6)


def test_upsample_keeps_array_type():
    maps = np.arange(12, dtype=np.float16).reshape(1, 3, 4)
    result = upsample(maps, np.array([6, 8]), (6, 8))
    assert isinstance(result, np.ndarray) and result.dtype == np.float32
    np.testing.assert_array_equal(result, upsample(torch.from_numpy(maps), (6, 8), (6, 8)).numpy())


def test_edge_repeats_beyond_map():
    assert upsample(np.array([[[1.0, 3.0]]], np.float32), (1, 2), (1, 4)).ravel().tolist() == [1, 3, 3, 3]


def test_interpolation_matrix():
    matrix = build_interpolation_matrix(7, 5, scale=0.6, offset=0.3)
    np.testing.assert_allclose(matrix.sum(dim=1), 1, rtol=1e-6)
    coordinates = ((np.arange(7) + 0.5) * 0.6 - 0.5 + 0.3).clip(0, 4)
    np.testing.assert_allclose(matrix @ torch.arange(5.0), coordinates, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="0 samples"):
        build_interpolation_matrix(3, 0, scale=1.0)


@pytest.mark.parametrize("shape", [(10, 13), (60, 80), (1, 1), (100, 3)])
def test_bands_equal_upsample(shape):
    maps = np.random.default_rng(0).random((3, *shape)).astype(np.float16)
    expected = upsample(maps.astype(np.float32), (60, 80), (60, 80))
    upsampled = np.full_like(expected, np.nan)
    for band_rows, rows in upsample_in_bands(maps, (60, 80), (60, 80), band=7):
        upsampled[:, band_rows] = rows
    np.testing.assert_allclose(upsampled, expected, atol=1e-6)

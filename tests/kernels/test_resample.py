"""Bilinear resampling as matrices, against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.kernels.resample import interpolation_matrix, upsample, upsampled_bands


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


def test_upsample_returns_what_it_was_given():
    maps = np.arange(12, dtype=np.float16).reshape(1, 3, 4)
    result = upsample(maps, np.array([6, 8]), (6, 8))
    assert isinstance(result, np.ndarray) and result.dtype == np.float32
    np.testing.assert_array_equal(result, upsample(torch.from_numpy(maps), (6, 8), (6, 8)).numpy())


def test_beyond_the_map_the_edge_repeats():
    assert upsample(np.array([[[1.0, 3.0]]], np.float32), (1, 2), (1, 4)).ravel().tolist() == [1, 3, 3, 3]


def test_rows_sum_to_one_and_offsets_shift():
    matrix = interpolation_matrix(7, 5, scale=0.6, offset=0.3)
    np.testing.assert_allclose(matrix.sum(dim=1), 1, rtol=1e-6)
    coordinates = ((np.arange(7) + 0.5) * 0.6 - 0.5 + 0.3).clip(0, 4)
    np.testing.assert_allclose(matrix @ torch.arange(5.0), coordinates, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="0 samples"):
        interpolation_matrix(3, 0, scale=1.0)


@pytest.mark.parametrize("shape", [(10, 13), (60, 80), (1, 1), (100, 3)])
def test_bands_are_the_whole(shape):
    maps = np.random.default_rng(0).random((3, *shape)).astype(np.float16)
    whole = upsample(maps.astype(np.float32), (60, 80), (60, 80))
    found = np.full_like(whole, np.nan)
    for place, rows in upsampled_bands(maps, (60, 80), band=7):
        found[:, place] = rows
    np.testing.assert_allclose(found, whole, atol=1e-6)

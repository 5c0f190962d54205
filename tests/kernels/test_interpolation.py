"""Interpolation of NumPy arrays, compared with matrices of torch and with float64, and its division into bands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.kernels import interpolation
from stages.kernels.interpolation import find_taps, interpolate, interpolate_in_bands
from stages.kernels.resample import build_interpolation_matrix, upsample, upsample_in_bands

# (grid, covers, size): covers larger and smaller than the image, maps of the image's size, larger ones, single cells.
CASES = [((3, 4), (48, 64), (37, 50)), ((10, 13), (40, 52), (37, 50)), ((1, 1), (16, 16), (5, 9)),
         ((9, 9), (4, 5), (4, 5)), ((12, 7), (12, 7), (12, 7)), ((5, 6), (20, 24), (31, 40)), ((1, 8), (3, 8), (60, 8))]


def draw_maps(grid: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(4).random((3, *grid), dtype=np.float32)


def interpolate_float64(maps: np.ndarray, covers: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return what half-pixel centres and clamped borders mean, by np.interp in float64."""
    for axis in (1, 2):
        length = maps.shape[axis]
        positions = (np.arange(size[axis - 1]) + 0.5) * length / covers[axis - 1] - 0.5
        maps = np.apply_along_axis(lambda line, x=positions, n=length: np.interp(x, np.arange(n), line), axis,
                                   maps.astype(np.float64))
    return maps


@pytest.mark.parametrize(("grid", "covers", "size"), CASES)
def test_arrays_agree_with_tensors_and_float64(grid, covers, size):
    maps = draw_maps(grid)
    result = upsample(maps, covers, size)
    assert result.dtype == np.float32
    # Values up to 1, at most six roundings of 2^-24 along both axes.
    np.testing.assert_allclose(result, interpolate_float64(maps, covers, size), rtol=0, atol=6 * 2.0**-24)
    np.testing.assert_allclose(result, upsample(torch.from_numpy(maps), covers, size), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("grid", "covers", "size"), CASES)
@pytest.mark.parametrize("band", [0, 1, 2, 7])
def test_bands_have_the_same_bits(grid, covers, size, band):
    maps, start = draw_maps(grid), 0
    expected = upsample(maps, covers, size)
    for rows, values in upsample_in_bands(maps, covers, size, band=band):
        assert rows.start == start and values.dtype == np.float32
        np.testing.assert_array_equal(values, expected[:, rows])
        start = rows.stop
    assert start == size[0]


def test_default_bands_are_small(monkeypatch):
    monkeypatch.setattr(interpolation, "_BAND_VALUES", 600)
    bands = list(upsample_in_bands(draw_maps((10, 13)), (40, 52), (37, 50)))
    assert len(bands) == 10 and max(values.size for _, values in bands) == 600


def test_values_at_samples_and_of_constant_maps_are_exact():
    maps = draw_maps((6, 8))
    np.testing.assert_array_equal(upsample(maps, (6, 8), (6, 8)), maps)
    assert np.unique(upsample(np.full((1, 3, 4), 0.7, np.float32), (48, 64), (40, 64))).tolist() == [np.float32(0.7)]
    assert upsample(maps, (24, 32), (24, 32)).max() <= maps.max()


def test_bands_read_only_the_rows_that_they_need():
    shapes = []

    def convert(rows: np.ndarray) -> np.ndarray:
        shapes.append(rows.shape[1])
        return rows.astype(np.float32) / 255

    maps = np.random.default_rng(1).integers(0, 256, (2, 50, 4), dtype=np.uint8)
    upsampled = np.concatenate([values for _, values in upsample_in_bands(maps, (100, 8), (100, 8), band=10,
                                                                         convert=convert)], axis=1)
    np.testing.assert_array_equal(upsampled, upsample(maps.astype(np.float32) / 255, (100, 8), (100, 8)))
    assert sum(shapes) == 50 and max(shapes) <= 6


def test_taps_are_the_two_entries_of_a_row_of_the_matrix():
    taps = find_taps(7, 5, scale=0.6, offset=0.3)
    matrix = np.zeros((7, 5), np.float32)
    np.add.at(matrix, (np.arange(7), taps.below), 1 - taps.fraction)
    np.add.at(matrix, (np.arange(7), taps.above), taps.fraction)
    np.testing.assert_allclose(matrix, build_interpolation_matrix(7, 5, scale=0.6, offset=0.3), atol=1e-7)
    with pytest.raises(ValueError, match="0 samples"):
        find_taps(3, 0, scale=1.0)


def test_downsampling_skips_rows():
    maps = draw_maps((64, 48))
    rows, columns = (find_taps(length // 16, length, scale=16) for length in maps.shape[1:])
    expected = interpolate(maps, rows, columns)
    for part, values in interpolate_in_bands(maps, rows, columns, band=1):
        np.testing.assert_array_equal(values, expected[:, part])

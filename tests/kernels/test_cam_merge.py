"""Merging of maps of several scales: cell positions, mirrored images, empty maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.kernels.cam_merge import merge_full_size, merge_scales, scale_size
from stages.kernels.resample import upsample

STRIDE = 16


def build_ramp(size: tuple[int, int], scale: float, mirrored: bool = False, first: float = 0.0) -> torch.Tensor:
    """Build maps as a stride-16 network would compute them, with the value 100 + x + 2 y at image pixel (y, x)."""
    scaled = scale_size(size, scale)
    cells = [math.ceil(length / STRIDE) for length in scaled]
    y, x = (torch.arange(num_cells) * float(STRIDE) + first for num_cells in cells)
    if mirrored:
        x = (scaled[1] - 1 - x).flip(0)
    y, x = ((position + 0.5) * length / scaled_length - 0.5
            for position, length, scaled_length in zip((y, x), size, scaled, strict=True))
    return (100 + x[None] + 2 * y[:, None])[None]


@pytest.mark.parametrize("first", [0.0, 7.5])
@pytest.mark.parametrize("size", [(129, 161), (140, 170), (128, 158)])
def test_centres_alignment_is_exact(size, first):
    scales, mirrored = [0.5, 1.0, 1.5, 1.0], [False, False, True, True]
    maps = [build_ramp(size, scale, is_mirrored, first) for scale, is_mirrored in zip(scales, mirrored, strict=True)]
    cam, covers = merge_scales(maps, size, scales=scales, mirrored=mirrored, first_cell_centre=first)
    values = upsample(cam, covers, size)[0].numpy()
    y, x = np.indices(size)
    # Only away from the border, where the maps of all scales have cells on both sides.
    interior = (slice(34, size[0] - 34), slice(34, size[1] - 34))
    values, expected = values[interior], (100 + x + 2 * y)[interior]
    np.testing.assert_allclose(values / values.flat[0], expected / expected.flat[0], rtol=2e-4)


@pytest.mark.parametrize("alignment", ["cells", "centres"])
def test_mirrored_maps_give_mirrored_result(alignment):
    generator = torch.Generator().manual_seed(3)
    size, scales = (60, 88), [1.0, 0.5, 1.5]
    shapes = [[math.ceil(length / STRIDE) for length in scale_size(size, scale)] for scale in scales]
    maps = [torch.rand(2, *shape, generator=generator) for shape in shapes]
    plain, _ = merge_scales(maps, size, scales=scales, alignment=alignment)
    mirrored, _ = merge_scales(
        [scale_maps.flip(-1) for scale_maps in maps], size, scales=scales, alignment=alignment, mirrored=[True] * 3
    )
    torch.testing.assert_close(mirrored, plain.flip(-1), rtol=1e-4, atol=1e-5)


def test_classes_are_divided_by_their_own_maximum():
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(2))
    maps[0] *= 50
    maps[1] = 0
    for alignment in ("cells", "centres"):
        cam, _ = merge_scales([maps, maps], (60, 70), scales=[1.0, 1.0], alignment=alignment)
        assert cam.dtype == torch.float32 and tuple(cam.shape) == (3, 15, 18)
        assert cam.amax(dim=(1, 2)).tolist() == pytest.approx([1, 0, 1], abs=1e-4)
    assert merge_full_size([maps], (60, 70))[1].abs().max() == 0


def test_covers():
    maps = [torch.ones(1, 4, 5)]
    assert merge_scales(maps, (61, 70), scales=[1.0])[1] == (64, 72)
    assert merge_scales(maps, (61, 70), scales=[1.0], alignment="cells")[1] == (64, 80)
    assert merge_scales(maps, (61, 70), scales=[1.0], grid_stride=8)[1] == (64, 72)


def test_cells_alignment_upsamples_to_full_size_maps():
    size, scales = (75, 100), [0.5, 1.0]
    maps = [build_ramp(size, scale) for scale in scales]
    cam, covers = merge_scales(maps, size, scales=scales, alignment="cells")
    upsampled, full = upsample(cam, covers, size), merge_full_size(maps, size)
    torch.testing.assert_close(upsampled / upsampled.max(), full / full.max(), rtol=0, atol=0.01)


def test_invalid_arguments_raise():
    maps = [torch.ones(1, 4, 5)]
    with pytest.raises(ValueError, match="'corners'"):
        merge_scales(maps, (61, 70), scales=[1.0], alignment="corners")
    with pytest.raises(ValueError):
        merge_scales(maps, (61, 70), scales=[1.0, 2.0])

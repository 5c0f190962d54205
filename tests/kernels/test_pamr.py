"""Pixel-adaptive refinement: the formula, colour edges, constant maps and edge cases."""

from __future__ import annotations

import pytest
import torch

from stages.kernels.pamr import ColourAffinity, compute_affinity, pamr, refine_by_views

DILATIONS = (1, 3)


def refine_once_by_loops(image: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Compute one iteration of the formula pixel by pixel."""
    _, height, width = image.shape
    refined = torch.empty_like(maps)
    steps = [(down * dilation, across * dilation)
             for dilation in DILATIONS for down in (-1, 0, 1) for across in (-1, 0, 1)]
    for row in range(height):
        for column in range(width):
            cells = [(min(max(row + down, 0), height - 1), min(max(column + across, 0), width - 1))
                     for down, across in steps]
            colours = torch.stack([image[:, y, x] for y, x in cells])
            neighbours = [index for index, step in enumerate(steps) if step != (0, 0)]
            difference = (colours[neighbours] - image[:, row, column]).abs() / (1e-8 + 0.1 * colours.std(dim=0))
            weights = (-difference.mean(1)).softmax(0)
            refined[:, row, column] = sum(weight * maps[:, cells[index][0], cells[index][1]]
                                          for weight, index in zip(weights, neighbours, strict=True))
    return refined


def test_iterations_follow_formula():
    generator = torch.Generator().manual_seed(3)
    image, maps = torch.rand(3, 7, 5, generator=generator), torch.rand(2, 7, 5, generator=generator)
    before = maps.clone()
    once = refine_once_by_loops(image, maps)
    torch.testing.assert_close(pamr(image, maps, DILATIONS, 1), once, atol=1e-5, rtol=0)
    torch.testing.assert_close(pamr(image, maps, DILATIONS, 2), refine_once_by_loops(image, once), atol=1e-5, rtol=0)
    assert torch.equal(maps, before), "the input maps are not modified"


def test_blocks_and_threads_do_not_change_result(monkeypatch):
    from stages.kernels import pamr_compiled

    generator = torch.Generator().manual_seed(4)
    image, maps = torch.rand(3, 20, 9, generator=generator), torch.rand(5, 20, 9, generator=generator)
    expected = pamr(image, maps, DILATIONS, 4)
    monkeypatch.setattr(pamr_compiled, "_BLOCK", 48)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(pamr(image, maps, DILATIONS, 4), expected)
    alone = torch.cat([pamr(image, single[None], DILATIONS, 4) for single in maps])
    assert torch.equal(alone, expected), "a map does not depend on the others"


@pytest.mark.parametrize(("size", "dilations", "softness"), [
    ((33, 47), (1, 2, 4, 8, 12, 24), 0.1), ((5, 2), (300, 1), 0.1), ((1, 70), (3,), 0.001), ((40, 31), (8, 16), 2.0)])
def test_compiled_loops_equal_tensor_operations(size, dilations, softness):
    generator = torch.Generator().manual_seed(5)
    image, maps = torch.rand(3, *size, generator=generator), torch.rand(3, *size, generator=generator)
    image[:, : size[0] // 2] = 0.5  # without any contrast
    expected = refine_by_views(image, maps, ColourAffinity(dilations, softness), 3)
    # A weight is the exponential of up to 30 / softness x 0.1: that many roundings of 2 ** -24, in three iterations.
    tolerance = 3 * 2 ** -24 * max(3 / softness, 50)
    torch.testing.assert_close(pamr(image, maps, dilations, 3, softness), expected, atol=tolerance, rtol=0)


def test_weights_sum_to_one_and_constant_maps_stay():
    image = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(compute_affinity(image, ColourAffinity(DILATIONS, 0.1)).sum(0), torch.ones(9, 9))
    torch.testing.assert_close(pamr(image, torch.full((2, 9, 9), 0.25), DILATIONS, 5), torch.full((2, 9, 9), 0.25))
    grey = torch.full((3, 9, 9), 128.0)
    assert torch.isfinite(pamr(grey, torch.rand(1, 9, 9), DILATIONS, 3)).all()


def test_maps_follow_colour_edge():
    image, maps = torch.zeros(3, 16, 16), torch.zeros(1, 16, 16)
    image[:, :, 8:] = 255.0
    maps[:, :, 6:] = 1.0  # two columns too wide
    refined = pamr(image, maps, (1, 2), 20)[0]
    assert refined[:, 6:8].mean() < 0.5 < refined[:, 8:].mean()


def test_value_range_of_image_does_not_matter():
    image, maps = torch.rand(3, 8, 8), torch.rand(1, 8, 8)
    torch.testing.assert_close(pamr(image * 255, maps, DILATIONS, 3), pamr(image, maps, DILATIONS, 3), atol=1e-5,
                               rtol=0)


def test_small_images_empty_maps_and_invalid_input():
    assert pamr(torch.rand(3, 1, 1), torch.ones(1, 1, 1), (24,), 3).item() == pytest.approx(1)
    assert pamr(torch.rand(3, 4, 4), torch.zeros(0, 4, 4), (1,), 3).shape == (0, 4, 4)
    with pytest.raises(ValueError, match="maps"):
        pamr(torch.rand(3, 4, 4), torch.rand(1, 4, 5), (1,), 1)
    with pytest.raises(ValueError, match="dilations"):
        pamr(torch.rand(3, 4, 4), torch.rand(1, 4, 4), (), 1)

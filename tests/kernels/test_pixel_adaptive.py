"""Pixel-adaptive refinement: the formula, the weights of distances, flat images that are resized, edge cases."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stages.kernels.pamr import ColourAffinity, refine_by_views
from stages.kernels.pixel_adaptive import DILATIONS, apply_par, compute_position_weights


def refine_once_by_loops(image: torch.Tensor, masks: torch.Tensor, dilations: tuple[int, ...]) -> torch.Tensor:
    """Compute one iteration of the formula pixel by pixel, in float64, with a scale of 0.5 and a weight of 0.2."""
    _, height, width = image.shape
    steps = [(down * dilation, across * dilation) for dilation in dilations
             for down in (-1, 0, 1) for across in (-1, 0, 1) if down or across]
    distances = torch.tensor([(down ** 2 + across ** 2) ** 0.5 for down, across in steps], dtype=torch.float64)
    near = (-(distances / distances.std() / 0.5) ** 2).softmax(0)
    refined = torch.empty_like(masks)
    for row in range(height):
        for column in range(width):
            cells = [(min(max(row + down, 0), height - 1), min(max(column + across, 0), width - 1))
                     for down, across in steps]
            colours = torch.stack([image[:, y, x] for y, x in cells])
            quotient = (colours - image[:, row, column]).abs() / (colours.std(dim=0) + 1e-8) / 0.5
            weights = (-quotient ** 2).mean(1).softmax(0) + 0.2 * near
            refined[:, row, column] = sum(weight * masks[:, y, x]
                                          for weight, (y, x) in zip(weights, cells, strict=True))
    return refined


def test_iterations_follow_formula():
    generator = torch.Generator().manual_seed(3)
    image, masks = torch.rand(2, 3, 7, 5, generator=generator), torch.rand(2, 2, 7, 5, generator=generator)
    expected = masks.double()
    for _ in range(2):
        expected = torch.stack([refine_once_by_loops(single, maps, (1, 3))
                                for single, maps in zip(image.double(), expected, strict=True)])
    actual = apply_par(image, masks, iterations=2, dilations=(1, 3), colour_scale=0.5, position_weight=0.2)
    # Two iterations of 16 products with weights below 1.2, which are exponentials of up to 30 roundings of 2 ** -24.
    torch.testing.assert_close(actual.double(), expected, atol=2 * 60 * 2 ** -24, rtol=0)


def test_weights_of_distances_prefer_near_neighbours():
    weights = compute_position_weights((1, 2), 0.3, 0.01)
    assert weights.sum() == pytest.approx(0.01)
    assert weights[[1, 3, 4, 6]] == pytest.approx(weights[1])
    assert weights[1] > weights[0] > weights[9] > weights[8]


@pytest.mark.parametrize("size", [(33, 47), (7, 3)])
def test_compiled_loops_equal_tensor_operations(size):
    generator = torch.Generator().manual_seed(5)
    image, masks = torch.rand(3, *size, generator=generator), torch.rand(3, *size, generator=generator)
    image[:, :, : size[1] // 2] = 0.5  # without any contrast
    affinity = ColourAffinity(DILATIONS, 0.3, is_squared=True, includes_pixel=False,
                              position_weights=compute_position_weights(DILATIONS, 0.3, 0.01))
    expected = refine_by_views(image, masks, affinity, 3)
    # An exponent is at most 48 / 0.3 ** 2 = 533, and has a few roundings of 2 ** -24 of its value.
    torch.testing.assert_close(apply_par(image[None], masks[None], iterations=3)[0], expected, atol=2e-5, rtol=0)


def test_flat_image_that_is_resized_has_no_edges():
    masks = torch.rand(1, 2, 45, 38, generator=torch.Generator().manual_seed(6))
    flat = torch.tensor([0.1, -1.37, 2.3])[None, :, None, None]
    assert F.interpolate(flat.expand(1, 3, 31, 29), masks.shape[2:], mode="bilinear",
                         align_corners=True)[0].flatten(1).std(1).max() > 0, "float32 alone makes rounding errors"
    resized = apply_par(flat.expand(1, 3, 31, 29), masks)
    assert torch.equal(resized, apply_par(flat.expand(1, 3, 45, 38), masks))


def test_masks_follow_colour_edge_and_grow_by_weight_of_distances():
    image, masks = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    image[..., 8:] = 255.0
    masks[..., 6:] = 1.0  # two columns too wide
    refined = apply_par(image, masks, dilations=(1, 2))[0, 0]
    assert refined[:, 6:8].mean() < 0.6 < 1.1 < refined[:, 8:].mean()
    constant = apply_par(image, torch.ones(1, 1, 16, 16), iterations=20)
    torch.testing.assert_close(constant, torch.full((1, 1, 16, 16), 1.01 ** 20))


def test_small_images_empty_masks_and_invalid_input():
    assert apply_par(torch.rand(1, 3, 1, 1), torch.ones(1, 1, 1, 1), iterations=1).item() == pytest.approx(1.01)
    assert apply_par(torch.rand(2, 3, 4, 4), torch.zeros(2, 0, 4, 5)).shape == (2, 0, 4, 5)
    assert apply_par(torch.rand(0, 3, 4, 4), torch.zeros(0, 1, 4, 5)).shape == (0, 1, 4, 5)
    with pytest.raises(ValueError, match="as many images"):
        apply_par(torch.rand(2, 3, 4, 4), torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="dilations"):
        apply_par(torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4), dilations=())

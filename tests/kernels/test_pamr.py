"""Pixel-adaptive refinement: what it must leave alone, what it must follow, and the plain formula."""

from __future__ import annotations

import pytest
import torch

from stages.kernels.pamr import affinity, pamr

DILATIONS = (1, 3)


def plain(image: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Return one iteration as the formula has it, pixel by pixel."""
    _, height, width = image.shape
    refined = torch.empty_like(maps)
    steps = [(down * far, across * far) for far in DILATIONS for down in (-1, 0, 1) for across in (-1, 0, 1)]
    for row in range(height):
        for column in range(width):
            places = [(min(max(row + down, 0), height - 1), min(max(column + across, 0), width - 1))
                      for down, across in steps]
            taps = torch.stack([image[:, y, x] for y, x in places])
            around = [place for place, step in enumerate(steps) if step != (0, 0)]
            apart = (taps[around] - image[:, row, column]).abs() / (1e-8 + 0.1 * taps.std(dim=0))
            weights = (-apart.mean(1)).softmax(0)
            refined[:, row, column] = sum(weight * maps[:, places[place][0], places[place][1]]
                                          for weight, place in zip(weights, around, strict=True))
    return refined


def test_one_iteration_is_the_formula():
    generator = torch.Generator().manual_seed(3)
    image, maps = torch.rand(3, 7, 5, generator=generator), torch.rand(2, 7, 5, generator=generator)
    before = maps.clone()
    torch.testing.assert_close(pamr(image, maps, DILATIONS, 1), plain(image, maps), atol=1e-5, rtol=0)
    torch.testing.assert_close(pamr(image, maps, DILATIONS, 2), plain(image, plain(image, maps)), atol=1e-5, rtol=0)
    assert torch.equal(maps, before), "the maps that came in are left as they were"


def test_bands_make_no_difference(monkeypatch):
    from stages.kernels import pamr as module

    generator = torch.Generator().manual_seed(4)
    image, maps = torch.rand(3, 20, 9, generator=generator), torch.rand(3, 20, 9, generator=generator)
    whole = pamr(image, maps, DILATIONS, 4)
    monkeypatch.setattr(module, "_BAND", 60)
    assert torch.equal(pamr(image, maps, DILATIONS, 4), whole)


def test_weights_sum_to_one_and_even_maps_and_colours_stay():
    image = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(affinity(image, DILATIONS).sum(0), torch.ones(9, 9))
    torch.testing.assert_close(pamr(image, torch.full((2, 9, 9), 0.25), DILATIONS, 5), torch.full((2, 9, 9), 0.25))
    grey = torch.full((3, 9, 9), 128.0)
    assert torch.isfinite(pamr(grey, torch.rand(1, 9, 9), DILATIONS, 3)).all()


def test_maps_follow_the_border_of_the_colours():
    image, maps = torch.zeros(3, 16, 16), torch.zeros(1, 16, 16)
    image[:, :, 8:] = 255.0
    maps[:, :, 6:] = 1.0  # two columns too wide
    refined = pamr(image, maps, (1, 2), 20)[0]
    assert refined[:, 6:8].mean() < 0.5 < refined[:, 8:].mean()


def test_the_scale_of_the_image_does_not_matter():
    image, maps = torch.rand(3, 8, 8), torch.rand(1, 8, 8)
    torch.testing.assert_close(pamr(image * 255, maps, DILATIONS, 3), pamr(image, maps, DILATIONS, 3), atol=1e-5,
                               rtol=0)


def test_small_images_no_maps_and_what_does_not_fit():
    assert pamr(torch.rand(3, 1, 1), torch.ones(1, 1, 1), (24,), 3).item() == pytest.approx(1)
    assert pamr(torch.rand(3, 4, 4), torch.zeros(0, 4, 4), (1,), 3).shape == (0, 4, 4)
    with pytest.raises(ValueError, match="maps"):
        pamr(torch.rand(3, 4, 4), torch.rand(1, 4, 5), (1,), 1)
    with pytest.raises(ValueError, match="dilations"):
        pamr(torch.rand(3, 4, 4), torch.rand(1, 4, 4), (), 1)

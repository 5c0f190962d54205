"""Overlays, heat maps, CAMs of several classes and images in the terminal."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stages.data.draw import (
    class_colours,
    colour_cams,
    colour_heat_map,
    colour_mask,
    overlay_heat_map,
    overlay_mask,
    render_half_blocks,
)
from stages.data.masks import voc_palette


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[4:12, 5:15] = 3
    mask[4:12, 15:20] = 255
    return mask


def test_a_mask_gets_the_colours_of_the_voc_devkit() -> None:
    colours = colour_mask(np.array([[0, 1, 15], [2, 20, 255]], dtype=np.uint8))
    expected = [[(0, 0, 0), (128, 0, 0), (192, 128, 128)], [(0, 128, 0), (0, 64, 128), (224, 224, 192)]]
    assert colours.dtype == np.uint8
    assert colours.tolist() == np.array(expected).tolist()


def test_a_mask_gets_the_colours_of_a_palette() -> None:
    palette = np.array([(9, 9, 9), (1, 2, 3), (4, 5, 6)], dtype=np.uint8)
    assert colour_mask(np.array([[0, 2, 1]], dtype=np.uint8), palette).tolist() == [[[9, 9, 9], [4, 5, 6], [1, 2, 3]]]


def test_sixteen_bit_masks_ignore_65535_and_colour_every_class() -> None:
    colours = colour_mask(np.array([[255, 300, 65535]], dtype=np.uint16))[0]
    assert colours[2].tolist() == [224, 224, 192]
    assert colours[0].tolist() == voc_palette()[1].tolist()
    assert class_colours(range(1, 1000)).any(axis=1).all()


def test_an_overlay_leaves_the_background_untouched_and_blends_the_classes(image, mask) -> None:
    drawn = overlay_mask(image, mask, alpha=0.25)
    assert np.array_equal(drawn[mask == 0], image[mask == 0])
    expected = np.rint(0.75 * image[6, 8] + 0.25 * voc_palette()[3].astype(float))
    assert drawn[6, 8].tolist() == expected.tolist()


def test_the_contour_is_one_pixel_inside_the_class(image, mask) -> None:
    changed = (overlay_mask(image, mask) != overlay_mask(image, mask, outline=False)).any(axis=2)
    inside = np.zeros_like(changed)
    inside[4:12, 5:15] = True
    inside[5:11, 6:14] = False
    assert np.array_equal(changed, inside)


def test_a_class_at_the_border_of_the_image_has_no_contour_there(image) -> None:
    whole = np.full((20, 30), 2, dtype=np.uint8)
    assert np.array_equal(overlay_mask(image, whole), overlay_mask(image, whole, outline=False))


def test_ignored_pixels_are_hatched(mask) -> None:
    drawn = overlay_mask(np.zeros((20, 30, 3), dtype=np.uint8), mask)[mask == 255]
    assert len(np.unique(drawn, axis=0)) == 2
    assert drawn.any(axis=1).all()


def test_different_sizes_are_rejected(image, mask) -> None:
    for draw in (lambda: overlay_mask(image, mask[:-1]), lambda: overlay_heat_map(image, np.zeros((20, 29)))):
        with pytest.raises(ValueError, match="20, 30"):
            draw()


def test_heat_map_gets_lighter_in_nearly_equal_steps_from_blue_to_yellow() -> None:
    colours = colour_heat_map(np.linspace(0, 1, 65)[None])[0].astype(float)
    linear = np.where(colours <= 10, colours / 3294.6, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    lightness = np.cbrt(linear @ (0.2126, 0.7152, 0.0722))
    steps = np.diff(lightness)
    assert (steps > 0).all()
    assert steps.max() < 3 * steps.mean()
    assert colours[0].argmax() == 2
    assert colours[-1].argmin() == 2


def test_heat_map_clips_values_and_colours_nan_grey() -> None:
    drawn = colour_heat_map(np.array([[-1.0, 0.0, 1.0, 7.0, np.nan]]))[0].tolist()
    assert drawn[0] == drawn[1]
    assert drawn[2] == drawn[3]
    assert drawn[4] == [128, 128, 128]


def test_heat_map_overlay_is_between_the_image_and_the_heat_map(image) -> None:
    values = np.linspace(0, 1, 600).reshape(20, 30)
    assert np.array_equal(overlay_heat_map(image, values, 0.0), image)
    assert np.array_equal(overlay_heat_map(image, values, 1.0), colour_heat_map(values))


def test_cams_mix_by_activation() -> None:
    cam = np.zeros((2, 1, 4), dtype=np.float16)
    cam[0, 0], cam[1, 0] = (1, 0, 0.5, 0), (0, 0.5, 0.5, 0)
    red, blue = voc_palette()[[1, 4]].astype(float)
    expected = [red, 0.5 * blue, 0.5 * (0.5 * red + 0.5 * blue), 0 * red]
    assert colour_cams(cam, [1, 4])[0].tolist() == np.rint(expected).tolist()


def test_cams_do_not_draw_the_background_and_may_be_empty() -> None:
    cam = np.ones((2, 2, 2))
    assert np.array_equal(colour_cams(cam, [0, 5]), colour_cams(cam[1:], [5]))
    assert not colour_cams(np.zeros((0, 3, 4)), []).any()
    with pytest.raises(ValueError, match="3 class ids"):
        colour_cams(cam, [1, 2, 3])


def test_cams_over_an_image_show_it_in_grey_without_activation(image) -> None:
    cam = np.zeros((1, 20, 30))
    cam[0, 0, 0] = 1
    drawn = colour_cams(cam, [2], image=image)
    assert drawn[0, 0].tolist() == [0, 128, 0]
    assert (np.ptp(drawn[1:], axis=2) == 0).all()
    assert drawn[1:].std() > 5


def test_half_blocks_have_two_pixels_per_character() -> None:
    image = np.zeros((4, 2, 3), dtype=np.uint8)
    image[0], image[1], image[2:] = (1, 2, 3), (4, 5, 6), (7, 8, 9)
    first, second = render_half_blocks(image, 2).split("\n")
    assert first == "\x1b[38;2;1;2;3;48;2;4;5;6m\u2580\u2580\x1b[0m"
    assert second == "\x1b[38;2;7;8;9;48;2;7;8;9m\u2580\u2580\x1b[0m"


@pytest.mark.parametrize("size", [(33, 50), (7, 3), (1, 90), (90, 1)])
def test_half_blocks_keep_the_aspect_ratio(size) -> None:
    lines = render_half_blocks(np.zeros((*size, 3), dtype=np.uint8), 24).split("\n")
    assert {len(re.sub("\x1b.*?m", "", line)) for line in lines} == {24}
    assert len(lines) == max(1, round(12 * size[0] / size[1]))


def test_without_colour_lightness_becomes_ascii() -> None:
    image = np.repeat(np.linspace(0, 255, 10).astype(np.uint8)[None, :, None], 4, axis=0).repeat(3, axis=2)
    assert render_half_blocks(image, 10, colour=False).split("\n") == [" .:-=+*#%@"] * 2


def test_zero_columns_are_rejected(image) -> None:
    with pytest.raises(ValueError, match="columns is 0"):
        render_half_blocks(image, 0)

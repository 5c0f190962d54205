"""Masks and CAMs of several classes over a photograph: colours, borders, ignored pixels."""

from __future__ import annotations

import numpy as np
import pytest

from stages.data.class_colours import class_colours
from stages.data.draw import colour_cams, find_heated_classes, find_mask_classes, overlay_mask


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[4:12, 5:15] = 3
    mask[4:12, 15:20] = 255
    return mask


def test_an_overlay_leaves_the_background_untouched_and_blends_the_classes_over_grey(image, mask) -> None:
    drawn = overlay_mask(image, mask, alpha=0.25)
    assert np.array_equal(drawn[mask == 0], image[mask == 0])
    grey = image[8, 9] @ np.array((0.299, 0.587, 0.114))
    expected = np.rint(0.75 * grey + 0.25 * class_colours([3])[0].astype(float))
    assert np.abs(drawn[8, 9] - expected).max() <= 1


@pytest.mark.parametrize("value", [0, 255])
def test_the_border_of_a_class_has_a_dark_line_and_a_line_of_its_colour_inside(mask, value) -> None:
    """One of the two differs from every photograph by 100 grey values or more."""
    photograph = np.full((20, 30, 3), value, dtype=np.uint8)
    drawn = overlay_mask(photograph, mask).astype(int)
    assert drawn[4, 5:15].max() < 30 and drawn[4:12, 5].max() < 30
    assert (drawn[5, 6:14] == class_colours([3])[0]).all() and (drawn[5:11, 6] == class_colours([3])[0]).all()
    assert np.abs(drawn[[4, 5], 8] - value).max() >= 100
    inside = overlay_mask(photograph, mask, outline=False)
    assert np.array_equal(drawn[6:10, 7:13], inside[6:10, 7:13]), "nothing else has a border"


def test_a_class_at_the_border_of_the_image_has_no_contour_there(image) -> None:
    whole = np.full((20, 30), 2, dtype=np.uint8)
    assert np.array_equal(overlay_mask(image, whole), overlay_mask(image, whole, outline=False))


def test_ignored_pixels_are_hatched(mask) -> None:
    drawn = overlay_mask(np.zeros((20, 30, 3), dtype=np.uint8), mask)[mask == 255]
    assert len(np.unique(drawn, axis=0)) == 2
    assert drawn.any(axis=1).all()


def test_sixteen_bit_masks_ignore_65535_and_have_a_class_255(image) -> None:
    mask = np.zeros((20, 30), dtype=np.uint16)
    mask[2:9, 2:9], mask[12:18, 2:9], mask[:, 20:] = 255, 300, 65535
    assert find_mask_classes(mask) == (255, 300)
    assert find_mask_classes(np.array([[0, 3, 255]], dtype=np.uint8)) == (3,)
    drawn = overlay_mask(image, mask)
    assert (drawn[3, 3:8] == class_colours([255])[0]).all()


def test_sizes_that_differ_are_rejected(image, mask) -> None:
    with pytest.raises(ValueError, match="20, 30"):
        overlay_mask(image, mask[:-1])
    with pytest.raises(ValueError, match="20, 30"):
        colour_cams(np.zeros((1, 20, 29)), [1], image=image)


def test_cams_mix_class_colours_by_activation() -> None:
    cams = np.zeros((3, 1, 3), dtype=np.float32)
    cams[0, 0, 0], cams[1, 0, 1], cams[:2, 0, 2], cams[2] = 1, 1, 1, 0
    drawn = colour_cams(cams, [2, 5, 7]).astype(float)[0]
    red, blue = class_colours([2, 5]).astype(float)
    for pixel, expected in zip(drawn, (red, blue, (red + blue) / 2), strict=True):
        assert np.abs(pixel - 0.92 * expected).max() <= 1
    assert find_heated_classes(cams, [2, 5, 7]) == (2, 5)


def test_the_background_row_is_not_drawn(image) -> None:
    cams = np.stack([np.ones((20, 30)), np.zeros((20, 30))]).astype(np.float32)
    assert np.array_equal(colour_cams(cams, [0, 4], image=image), colour_cams(cams[1:], [4], image=image))
    assert find_heated_classes(cams, [0, 4]) == ()


def test_classes_with_low_scores_are_faint(image) -> None:
    cams = np.ones((1, 20, 30), dtype=np.float32)
    plain = colour_cams(cams * 0, [4], image=image).astype(float)
    faint, strong = (np.abs(colour_cams(cams, [4], image=image, scores=[score]) - plain).mean()
                     for score in (0.01, 0.9))
    assert 0 < faint < 0.3 * strong


@pytest.mark.parametrize(("shape", "ids"), [((2, 4, 4), [1]), ((4, 4), [1, 2])])
def test_rows_that_do_not_fit_the_class_ids_are_rejected(shape, ids) -> None:
    with pytest.raises(ValueError, match="class ids"):
        colour_cams(np.zeros(shape), ids)


def test_an_image_without_cams_is_drawn_without_heat(image) -> None:
    drawn = colour_cams(np.zeros((0, 20, 30)), [], image=image)
    assert drawn.shape == image.shape and drawn.max() <= 72

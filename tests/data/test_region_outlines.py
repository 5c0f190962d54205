"""Outlines of regions: their pixels, their contrast on any image, and the pixels of no region."""

from __future__ import annotations

import numpy as np
import pytest

from stages.data.region_outlines import describe_regions, find_region_outlines, overlay_regions

LABELS = np.zeros((12, 16), np.int32)
LABELS[3:, :8], LABELS[3:, 8:] = 7, 300


def test_the_two_sides_of_an_outline_are_light_and_dark():
    light, dark = find_region_outlines(LABELS)
    expected_light, expected_dark = np.zeros_like(light), np.zeros_like(dark)
    expected_dark[2, :] = True  # no region, above both
    expected_light[3, :7] = True  # the upper side of region 7
    expected_dark[3:, 7] = True  # region 7 next to region 300
    expected_light[3, 8:] = expected_light[3:, 8] = True
    assert np.array_equal(light, expected_light)
    assert np.array_equal(dark, expected_dark)


@pytest.mark.parametrize("grey", [0, 80, 128, 190, 255])
def test_outlines_are_visible_on_every_image(grey):
    image = np.full((*LABELS.shape, 3), grey, np.uint8)
    drawn = overlay_regions(image, LABELS)
    luma = drawn @ np.array((0.299, 0.587, 0.114))
    contrasts = [abs(luma[6, column] - grey) for column in (7, 8)]
    assert max(contrasts) > 75
    assert abs(luma[6, 7] - luma[6, 8]) > 150
    assert (drawn[5:, :6] == grey).all() and (drawn[5:, 10:] == grey).all(), "the inside of a region is unchanged"


def test_pixels_of_no_region_are_grey():
    drawn = overlay_regions(np.zeros((*LABELS.shape, 3), np.uint8), LABELS)
    assert (drawn[:2] > 60).all()
    bright = overlay_regions(np.full((*LABELS.shape, 3), 255, np.uint8), LABELS)
    assert (bright[:2] < 160).all()


def test_regions_are_counted_without_0():
    assert describe_regions(LABELS) == "2 regions"
    assert describe_regions(np.minimum(LABELS, 1)) == "1 region"
    assert describe_regions(LABELS[:3]) == "0 regions"

"""Class colours: neither grey nor dark nor pale, distinct, also for deuteranopes, and the same for the same id."""

from __future__ import annotations

import numpy as np

from data.colour_science import simulate_deuteranopia, to_cielab
from stages.data.class_colours import CLASS_COLOURS, class_colours


def find_smallest_distance(values: np.ndarray) -> float:
    distances = np.linalg.norm(values[:, None] - values[None], axis=2)
    return float(distances[~np.eye(len(values), dtype=bool)].min())


def test_reference_values_of_cielab():
    """White, and sRGB red and blue as published with the standard."""
    expected = [(100, 0, 0), (53.24, 80.09, 67.20), (32.30, 79.19, -107.86)]
    assert np.abs(to_cielab(np.array([(255, 255, 255), (255, 0, 0), (0, 0, 255)])) - expected).max() < 0.05


def test_colours_are_never_grey_nor_near_black_nor_near_white():
    lightness, a, b = to_cielab(CLASS_COLOURS).T
    assert lightness.min() >= 47 and lightness.max() <= 89
    assert np.hypot(a, b).min() >= 29


def test_the_first_25_colours_are_distinct_and_differ_in_lightness():
    lab = to_cielab(CLASS_COLOURS[:25])
    assert find_smallest_distance(lab) >= 20
    assert np.ptp(lab[:, 0]) >= 35 and lab[:, 0].std() >= 10
    assert find_smallest_distance(to_cielab(CLASS_COLOURS)) >= 6


def test_colours_are_distinct_for_deuteranopes_as_far_as_possible():
    """A deuteranope sees two dimensions of colour: 12 and 25 colours are as far apart as these bounds."""
    for count, bound in ((6, 20), (12, 8), (25, 5)):
        assert find_smallest_distance(simulate_deuteranopia(CLASS_COLOURS[:count])) >= bound, count


def test_a_class_id_always_has_the_same_colour():
    assert [tuple(colour) for colour in class_colours([1, 2, 3]).tolist()] == [(230, 59, 41), (66, 253, 59),
                                                                              (34, 105, 252)]
    mask = np.array([[0, 3], [96, 97]], dtype=np.uint16)
    assert class_colours(mask).shape == (2, 2, 3)
    assert (class_colours(mask)[0, 0] == 0).all()
    assert (class_colours(mask)[1, 1] == class_colours([1])[0]).all()
    assert len(np.unique(class_colours(range(1, 97)), axis=0)) == 96

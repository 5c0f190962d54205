"""Features of regions: erosion, means over cells, outliers, and the vote of the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from stages.kernels.region_features import (
    average_regions,
    erode_regions,
    number_regions,
    retrieve_classes,
    select_typical,
)


@pytest.mark.parametrize("distance", [0, 1, 4])
def test_erosion_equals_repeated_erosion_of_each_region(distance):
    labels = np.random.default_rng(0).integers(0, 3, (4, 5)).repeat(9, 0).repeat(7, 1)
    eroded = erode_regions(labels, distance)
    for label in range(3):
        expected = labels == label
        for _ in range(distance):
            # The border of the image erodes nothing, as in OpenCV.
            expected = ndimage.binary_erosion(expected, np.ones((3, 3)), border_value=1)
        assert np.array_equal(eroded == label, expected)


def test_small_regions_and_negative_labels_have_no_position():
    labels = np.array([[7, 7, 7, -1], [2, 2, 9, -1]])
    positions, ids = number_regions(labels, 2)
    assert ids.tolist() == [2, 7]
    assert positions.tolist() == [[1, 1, 1, -1], [0, 0, -1, -1]]


def test_means_weigh_each_cell_by_the_area_of_the_region_in_it():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(6, 3, 4)).astype(np.float32)
    labels = rng.integers(0, 3, (11, 14))  # the last row and columns of cells are cut by the border of the image
    positions, ids = number_regions(labels, 1)
    means = average_regions(features, positions, len(ids), 4)
    at_pixels = features.repeat(4, 1).repeat(4, 2)[:, :11, :14]
    for position in range(3):
        expected = at_pixels[:, positions == position].astype(np.float64).mean(axis=1)
        np.testing.assert_allclose(means[position], expected / np.linalg.norm(expected), atol=1e-6)


def test_no_regions_give_no_vectors():
    assert average_regions(np.ones((6, 3, 4), np.float32), np.full((12, 16), -1), 0, 4).shape == (0, 6)


def test_the_farthest_of_a_class_are_left_out_and_no_background():
    angles = np.radians([0, 5, -5, 80, 0, 90, 180, 270])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    class_ids = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    assert select_typical(features, class_ids, 0.25).tolist() == [True, True, True, False] + [True] * 4
    assert select_typical(features, class_ids, 0.0).all()


def test_most_of_the_nearest_decide_and_cosines_break_ties():
    bank = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]], np.float32)
    class_ids = np.array([2, 1, 1, 3, 3])
    queries = np.array([[1.0, 0.0]], np.float32)
    expected = {1: (2, 1.0), 2: (2, 1.0), 3: (1, 0.7), 5: (1, 0.7)}
    for num_neighbours, (class_id, cosine) in expected.items():
        classes, cosines = retrieve_classes(queries, bank, class_ids, num_neighbours)
        assert classes.tolist() == [class_id]
        assert cosines == pytest.approx([cosine])

"""Boundary IoU: a case computed by hand, and a comparison with the definition by erosion of every class."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from stages.kernels.boundary_iou import compute_boundary_width, count_boundary_pixels, find_boundary
from stages.kernels.mean_iou import iou_per_class


def test_squares_counted_by_hand():
    """In 20 x 20 pixels (d = 1), a square of 6 x 6 has a ring of 20 pixels; moved by one column, the rings share 10.

    The rings are in columns 4..9 and 5..10, both in rows 4..9. They share the top and bottom rows in columns 5..9 (2 x
    5 pixels); their sides are in other columns. Union: 20 + 20 - 10 = 30.
    """
    truth, prediction = np.zeros((2, 20, 20), np.uint8)
    truth[4:10, 4:10] = 1
    prediction[4:10, 5:11] = 1
    counts = count_boundary_pixels(truth, prediction, 2)
    assert [pixels[1] for pixels in counts] == [10, 20, 20]
    assert iou_per_class(counts)[1] == pytest.approx(1 / 3)


def test_border_of_the_image_is_a_contour():
    truth = np.zeros((20, 20), np.uint8)
    assert find_boundary(truth, 1).sum() == 4 * 19
    assert count_boundary_pixels(truth, truth, 1).truth.tolist() == [4 * 19]


def erode_by_definition(mask: np.ndarray, distance: int) -> np.ndarray:
    """Erode a mask `distance` times by 3 x 3 pixels, with nothing outside of the image."""
    return ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=distance, border_value=0)


@pytest.mark.parametrize(("dtype", "ignore"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("shape", [(70, 90), (3, 60), (1, 1)])
def test_agrees_with_the_definition(dtype, ignore, shape):
    random = np.random.default_rng(3)
    masks = []
    for _ in range(2):
        coarse = random.choice([0, 1, 2, ignore], (shape[0] // 12 + 1, shape[1] // 12 + 1))
        masks.append(np.kron(coarse, np.ones((12, 12)))[:shape[0], :shape[1]].astype(dtype))
    truth, prediction = masks
    counts = count_boundary_pixels(truth, prediction, 3, ignore=ignore, share=0.03)
    distance = compute_boundary_width(*shape, 0.03)
    is_counted = truth != ignore
    for label in range(3):
        rings = [mask & ~erode_by_definition(mask, distance) for mask in (truth == label,
                                                                        (prediction == label) & is_counted)]
        expected = [(rings[0] & rings[1]).sum(), rings[0].sum(), rings[1].sum()]
        assert [pixels[label] for pixels in counts] == expected


def test_a_perfect_prediction_scores_1_next_to_ignored_pixels():
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 255
    truth[13:27, 13:27] = 1
    filled = np.where(truth == 255, np.uint8(1), truth)
    assert iou_per_class(count_boundary_pixels(truth, filled, 2)).tolist() == [1, 1]


def test_255_classes_leave_no_id_free():
    truth = np.full((4, 4), 254, np.uint8)
    truth[0, 0] = 255
    counts = count_boundary_pixels(truth, truth, 255)
    assert [int(pixels.sum()) for pixels in counts] == [12, 12, 12]


def test_width_is_two_percent_of_the_diagonal():
    assert compute_boundary_width(300, 400) == 10
    assert compute_boundary_width(5, 5) == 1


def test_rejects_other_shapes_and_ids():
    with pytest.raises(ValueError, match="differ in shape"):
        count_boundary_pixels(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)
    with pytest.raises(ValueError, match="prediction has the value 7"):
        count_boundary_pixels(np.zeros((2, 2), np.uint8), np.full((2, 2), 7, np.uint8), 2)

"""Confusion counts and the rules of the mean, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.mean_iou import (
    confusion,
    frequency_weighted_iou,
    iou_per_class,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)

TRUTH = np.array([[0, 0, 1, 1, 255]], dtype=np.uint8)
PREDICTION = np.array([[0, 2, 1, 255, 3]], dtype=np.uint8)


def test_rows_are_truth_and_the_last_column_is_ignored_prediction():
    expected = np.zeros((4, 5), dtype=np.int64)
    expected[0, 0] = expected[0, 2] = expected[1, 1] = expected[1, 4] = 1
    counted = confusion(TRUTH, PREDICTION, 4)
    assert counted.dtype == np.int64
    np.testing.assert_array_equal(counted, expected)


def test_ignored_prediction_is_a_miss_unless_skipped():
    np.testing.assert_allclose(iou_per_class(confusion(TRUTH, PREDICTION, 4)), [0.5, 0.5, 0, np.nan])
    skipped = confusion(TRUTH, PREDICTION, 4, ignored_prediction="skip")
    np.testing.assert_allclose(iou_per_class(skipped), [0.5, 1, 0, np.nan])


def test_the_three_rules():
    counted = confusion(TRUTH, PREDICTION, 4)
    assert mean_iou(counted) == pytest.approx(1 / 3)
    assert mean_iou(counted, "truth") == pytest.approx(1 / 2)
    assert mean_iou(counted, "all") == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="rule 'voc'"):
        mean_iou(counted, "voc")


def test_accuracies():
    counted = confusion(TRUTH, PREDICTION, 4)
    assert pixel_accuracy(counted) == pytest.approx(2 / 4)
    assert mean_accuracy(counted) == pytest.approx(1 / 2)
    assert frequency_weighted_iou(counted) == pytest.approx(0.5)


def test_sixteen_bit_masks():
    truth = np.array([[255, 300, 65535]], dtype=np.uint16)
    counted = confusion(truth, np.array([[255, 255, 0]], dtype=np.uint16), 301, ignore=65535)
    assert counted.sum() == 2 and counted[255, 255] == 1 and counted[300, 255] == 1


def test_nothing_counted_is_nan():
    empty = np.zeros((3, 4), dtype=np.int64)
    for score in (mean_iou, pixel_accuracy, mean_accuracy, frequency_weighted_iou):
        assert np.isnan(score(empty))


def test_ids_that_are_no_class_are_refused():
    with pytest.raises(ValueError, match="truth holds 4"):
        confusion(np.array([[4]]), np.array([[0]]), 4)
    with pytest.raises(ValueError, match="prediction holds 9"):
        confusion(np.array([[0]]), np.array([[9]]), 4)
    with pytest.raises(ValueError, match="prediction holds 4"):
        confusion(np.array([[0]]), np.array([[4]]), 4)
    with pytest.raises(ValueError, match="shape"):
        confusion(np.zeros((1, 3)), np.zeros((1, 4)), 4)

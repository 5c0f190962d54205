"""Confusion matrices and mean IoU rules, compared with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels import mean_iou as mean_iou_module
from stages.kernels.mean_iou import (
    confusion_matrix,
    frequency_weighted_iou,
    iou_per_class,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)

TRUTH = np.array([[0, 0, 1, 1, 255]], dtype=np.uint8)
PREDICTION = np.array([[0, 2, 1, 255, 3]], dtype=np.uint8)


def test_confusion_matrix_layout():
    expected = np.zeros((4, 5), dtype=np.int64)
    expected[0, 0] = expected[0, 2] = expected[1, 1] = expected[1, 4] = 1
    matrix = confusion_matrix(TRUTH, PREDICTION, 4)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)


def test_ignored_prediction_is_miss_unless_skipped():
    np.testing.assert_allclose(iou_per_class(confusion_matrix(TRUTH, PREDICTION, 4)), [0.5, 0.5, 0, np.nan])
    skipped = confusion_matrix(TRUTH, PREDICTION, 4, ignored_prediction="skip")
    np.testing.assert_allclose(iou_per_class(skipped), [0.5, 1, 0, np.nan])


def test_mean_iou_rules():
    matrix = confusion_matrix(TRUTH, PREDICTION, 4)
    assert mean_iou(matrix) == pytest.approx(1 / 3)
    assert mean_iou(matrix, "truth") == pytest.approx(1 / 2)
    assert mean_iou(matrix, "all") == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="rule 'voc'"):
        mean_iou(matrix, "voc")


def test_accuracies():
    matrix = confusion_matrix(TRUTH, PREDICTION, 4)
    assert pixel_accuracy(matrix) == pytest.approx(2 / 4)
    assert mean_accuracy(matrix) == pytest.approx(1 / 2)
    assert frequency_weighted_iou(matrix) == pytest.approx(0.5)


def test_16_bit_masks():
    truth = np.array([[255, 300, 65535]], dtype=np.uint16)
    matrix = confusion_matrix(truth, np.array([[255, 255, 0]], dtype=np.uint16), 301, ignore=65535)
    assert matrix.sum() == 2 and matrix[255, 255] == 1 and matrix[300, 255] == 1


def test_empty_matrix_gives_nan():
    empty = np.zeros((3, 4), dtype=np.int64)
    for score in (mean_iou, pixel_accuracy, mean_accuracy, frequency_weighted_iou):
        assert np.isnan(score(empty))


def test_invalid_class_ids_raise():
    with pytest.raises(ValueError, match="truth has the value 4"):
        confusion_matrix(np.array([[4]]), np.array([[0]]), 4)
    with pytest.raises(ValueError, match="prediction has the value 9"):
        confusion_matrix(np.array([[0]]), np.array([[9]]), 4)
    with pytest.raises(ValueError, match="prediction has the value 4"):
        confusion_matrix(np.array([[0]]), np.array([[4]]), 4)
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(np.zeros((1, 3)), np.zeros((1, 4)), 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize(("num_classes", "ignored_prediction"), [(4, "miss"), (4, "skip"), (255, "miss")])
def test_every_type_and_band_counts_the_same_pixels(dtype, num_classes, ignored_prediction, monkeypatch):
    random = np.random.default_rng(8)
    truth, prediction = (random.choice([0, 1, 3, num_classes - 1, 255], (23, 31)) for _ in range(2))
    expected = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    for true_id, predicted_id in zip(truth.ravel(), prediction.ravel(), strict=True):
        if true_id != 255 and not (predicted_id == 255 and ignored_prediction == "skip"):
            expected[true_id, num_classes if predicted_id == 255 else predicted_id] += 1
    for band in (1 << 19, 100):
        monkeypatch.setattr(mean_iou_module, "_BAND_PIXELS", band)
        matrix = confusion_matrix(truth.astype(dtype), prediction.astype(dtype), num_classes,
                                  ignored_prediction=ignored_prediction)
        np.testing.assert_array_equal(matrix, expected)


def test_invalid_class_ids_of_masks_raise():
    ids = np.array([[0, 7, 255]], np.uint8)
    with pytest.raises(ValueError, match="truth has the value 7"):
        confusion_matrix(ids, np.zeros_like(ids), 4)
    with pytest.raises(ValueError, match="prediction has the value 7"):
        confusion_matrix(np.zeros_like(ids), ids, 4)
    ignored = np.where(ids == 7, 255, 0).astype(np.uint8)
    assert confusion_matrix(ignored, ids, 4).sum() == 2, "a pixel that the truth ignores may have any value"

"""The one-pass sweep gives the same counts as one mask per threshold."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.mean_iou import confusion_matrix, count_pixels, iou_per_class, mean_iou
from stages.kernels.threshold_sweep import ThresholdSweep, power_to_threshold

CLASSES = 4
THRESHOLDS = [0.5, 0.0, 0.3, 0.7, 0.3, 1.0]


@pytest.fixture
def images() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    images = []
    for shape in ((9, 7), (12, 5), (6, 6)):
        winner = rng.integers(0, CLASSES, shape)
        # Scores in steps of a tenth, so that many lie on a threshold.
        score = (rng.integers(0, 11, shape) / 10).astype(np.float32)
        truth = rng.choice([0, 1, 2, 3, 255], shape)
        images.append((winner, score, truth))
    return images


def count_at_threshold(images, threshold: float) -> np.ndarray:
    total = np.zeros((CLASSES + 1, CLASSES + 2), dtype=np.int64)
    for winner, score, truth in images:
        total += confusion_matrix(truth, np.where(score <= np.float32(threshold), 0, winner), CLASSES + 1)
    return total


def test_sweep_equals_one_mask_per_threshold(images):
    sweep = ThresholdSweep(CLASSES, THRESHOLDS)
    for image in images:
        sweep.update(*image)
    for index, threshold in enumerate(THRESHOLDS):
        expected = count_at_threshold(images, threshold)
        for counts, expected_counts in zip(sweep.count_pixels(index), count_pixels(expected), strict=True):
            assert counts.dtype == np.int64
            np.testing.assert_array_equal(counts, expected_counts)
        np.testing.assert_array_equal(sweep.iou()[index], iou_per_class(expected))
        for rule in ("either", "truth", "all"):
            assert sweep.mean_iou(rule)[index] == mean_iou(expected, rule)
    np.testing.assert_array_equal(sweep.count_pixels(-1).prediction, sweep.count_pixels(5).prediction)


def test_sweeps_can_be_added(images):
    all_images, first, second = (ThresholdSweep(CLASSES, THRESHOLDS) for _ in range(3))
    for image in images:
        all_images.update(*image)
    first.update(*images[0])
    second.update(*images[1])
    second.update(*images[2])
    np.testing.assert_array_equal((first + second).iou(), all_images.iou())
    with pytest.raises(ValueError, match="can't be added"):
        first + ThresholdSweep(CLASSES, [0.5])


def test_invalid_values_raise():
    sweep = ThresholdSweep(2, [0.5])
    pixel = np.zeros((1, 1), dtype=np.int64)
    with pytest.raises(ValueError, match=r"truth has the values 3\.\.3"):
        sweep.update(pixel, pixel, pixel + 3)
    with pytest.raises(ValueError, match="NaN"):
        sweep.update(pixel, pixel * np.nan, pixel)


@pytest.mark.parametrize("power", [0, 0.5, 1, 4, 16, 32])
def test_power_threshold_marks_the_same_background(power):
    threshold = power_to_threshold(power)
    assert threshold == pytest.approx((1 - threshold) ** power, abs=1e-12)
    scores = np.linspace(0, 1, 1001)
    np.testing.assert_array_equal((1 - scores) ** power >= scores, scores <= threshold)

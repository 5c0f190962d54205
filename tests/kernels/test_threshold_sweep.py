"""The one-pass sweep gives the same counts as one mask per threshold."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels import threshold_sweep
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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_and_types_of_masks_give_the_same_counts(images, dtype, monkeypatch):
    expected, banded = (ThresholdSweep(CLASSES, THRESHOLDS) for _ in range(2))
    for image in images:
        expected.update(*image)
    monkeypatch.setattr(threshold_sweep, "_BAND_PIXELS", 10)
    for winner, score, truth in images:
        for row in range(len(truth)):
            banded.update(winner[row].astype(dtype), score[row], truth[row].astype(dtype))
    for index in range(len(THRESHOLDS)):
        for counts, expected_counts in zip(banded.count_pixels(index), expected.count_pixels(index), strict=True):
            np.testing.assert_array_equal(counts, expected_counts)


@pytest.mark.parametrize("thresholds", [
    [step / 100 for step in range(100)], [power_to_threshold(step / 2) for step in range(1, 65)], [0.0, 1.0], [],
    [0.3, 0.3], [0.5, float(np.nextafter(np.float32(0.5), np.float32(1)))]],
    ids=["constants", "powers", "ends", "none", "equal", "neighbours"])
def test_bins_are_those_of_a_binary_search(thresholds):
    ascending = np.sort(np.array(thresholds, dtype=np.float32))
    finder = threshold_sweep._BinFinder(ascending)
    scores = np.concatenate([ascending, np.nextafter(ascending, np.float32(-1)), np.nextafter(ascending, np.float32(2)),
                             np.random.default_rng(0).random(5000, dtype=np.float32), np.float32([0, 1])])
    for values in (scores.clip(0, 1), scores):  # a few of the latter are outside the range of the table
        np.testing.assert_array_equal(finder.find_bins(values), np.searchsorted(ascending, values, side="left"))
    if len(thresholds) > 60:
        assert finder.num_cells <= threshold_sweep._MAX_CELLS, "the sweeps of eval use the table"


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

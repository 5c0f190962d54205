"""Scores added up image by image: the sweep agrees with the masks at every threshold."""

from __future__ import annotations

import numpy as np
import pytest

from stages.eval.score import (
    BACKGROUND_CONSTANTS,
    BACKGROUND_POWERS,
    BackgroundSweep,
    ConfusionMatrix,
    build_prediction,
    summarise_iou,
)
from stages.kernels.background import Background
from stages.kernels.mean_iou import PixelCounts, mean_iou

NUM_CLASSES = 3


def draw_images() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Draw (truth, rows, class ids) of four images, one without a class, with rows rounded as in shards."""
    random = np.random.default_rng(11)
    samples = []
    for ids in ([1], [1, 3], [], [2, 3]):
        truth = random.choice([0, *ids, 255], (13, 17)).astype(np.uint8)
        # Rounded to 1/100 and to float16, so that some values tie with thresholds.
        rows = np.round(random.random((len(ids), 13, 17)), 2).astype(np.float16).astype(np.float32)
        samples.append((truth, rows, np.array(ids, np.uint16)))
    return samples


@pytest.mark.parametrize(("power", "values"), [(False, BACKGROUND_CONSTANTS), (True, BACKGROUND_POWERS)],
                         ids=["constant", "power"])
def test_sweep_agrees_with_masks_at_every_value(power, values):
    sweep = BackgroundSweep(NUM_CLASSES, 255, power=power)
    for truth, rows, ids in draw_images():
        sweep.add(truth, rows, ids)
    best_value, best_miou = None, -1.0
    for index, value in enumerate(values):
        confusion = ConfusionMatrix(NUM_CLASSES, 255, skip_ignored=False)
        background = Background("power" if power else "constant", (value,))
        for truth, rows, ids in draw_images():
            confusion.add(truth, build_prediction(rows, ids, background, 255))
        for swept, counted in zip(sweep.sweep.count_pixels(index), confusion.count_pixels(), strict=True):
            np.testing.assert_array_equal(swept, counted, err_msg=f"{background}")
        if mean_iou(confusion.count_pixels(), "either") > best_miou:
            best_value, best_miou = value, mean_iou(confusion.count_pixels(), "either")
    value, counts = sweep.select_best("either")
    assert value == best_value
    assert mean_iou(counts, "either") == best_miou


def test_chooses_the_lowest_of_equal_values():
    sweep = BackgroundSweep(1, 255, power=False)
    sweep.add(np.array([[0, 1]]), np.array([[[0.2, 0.9]]], np.float32), np.array([1]))
    assert sweep.select_best("either")[0] == 0.2


def test_ignored_predictions_are_misses_unless_skipped():
    truth, prediction = np.array([[1, 1, 0, 255]]), np.array([[1, 255, 0, 1]])
    missed, skipped = (ConfusionMatrix(1, 255, skip_ignored=skip) for skip in (False, True))
    for confusion in (missed, skipped):
        confusion.add(truth, prediction)
    assert summarise_iou(missed.count_pixels(), ("background", "cat"), "either")[1] == {"background": 1.0, "cat": 0.5}
    assert summarise_iou(skipped.count_pixels(), ("background", "cat"), "either")[1] == {"background": 1.0, "cat": 1.0}
    assert missed.num_decided == 2


def test_rules_with_an_absent_class():
    # The background is right, cat half right, dog predicted but not in the truth, bird in neither.
    counts = PixelCounts(np.array([10, 5, 0, 0]), np.array([10, 10, 0, 0]), np.array([10, 5, 5, 0]))
    classes = ("background", "cat", "dog", "bird")
    either, iou_by_class = summarise_iou(counts, classes, "either")
    assert iou_by_class == {"background": 1.0, "cat": 0.5, "dog": 0.0, "bird": None}
    assert either == pytest.approx(1.5 / 3)
    assert summarise_iou(counts, classes, "truth")[0] == pytest.approx(1.5 / 2)
    assert summarise_iou(counts, classes, "all")[0] == pytest.approx(1.5 / 4)


def test_skips_an_unnamed_background():
    counts = PixelCounts(np.array([0, 5]), np.array([0, 10]), np.array([3, 5]))
    assert summarise_iou(counts, ("", "cat"), "either") == (0.5, {"cat": 0.5})


def test_no_pixels_give_none():
    nothing = PixelCounts(*(np.zeros(2, np.int64) for _ in range(3)))
    assert summarise_iou(nothing, ("background", "cat"), "either") == (None, {"background": None, "cat": None})

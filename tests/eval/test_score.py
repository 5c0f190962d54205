"""Scores counted image by image: the sweep is what its masks would be, one threshold after the other."""

from __future__ import annotations

import numpy as np
import pytest

from stages.eval.score import CONSTANTS, POWERS, MaskScore, SweepScore, prediction_of, summary_of
from stages.kernels.background import Background
from stages.kernels.mean_iou import Counts, mean_iou

N_CLASSES = 3


def images() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return (truth, rows, class ids) of four images; one has no class, rows are as shards store them."""
    random = np.random.default_rng(11)
    made = []
    for ids in ([1], [1, 3], [], [2, 3]):
        truth = random.choice([0, *ids, 255], (13, 17)).astype(np.uint8)
        # Thirds of the steps of float16 and of 1/100: values that tie with thresholds are among them.
        rows = np.round(random.random((len(ids), 13, 17)), 2).astype(np.float16).astype(np.float32)
        made.append((truth, rows, np.array(ids, np.uint16)))
    return made


@pytest.mark.parametrize(("power", "values"), [(False, CONSTANTS), (True, POWERS)], ids=["constant", "power"])
def test_the_sweep_is_the_score_of_the_masks_at_every_value(power, values):
    sweep = SweepScore(N_CLASSES, 255, power=power)
    for truth, rows, ids in images():
        sweep.add(truth, rows, ids)
    best, best_mean = None, -1.0
    for place, value in enumerate(values):
        single = MaskScore(N_CLASSES, 255, skip_ignored=False)
        background = Background("power" if power else "constant", (value,))
        for truth, rows, ids in images():
            single.add(truth, prediction_of(rows, ids, background, 255))
        for swept, counted in zip(sweep.sweep.counts(place), single.counts(), strict=True):
            np.testing.assert_array_equal(swept, counted, err_msg=f"{background}")
        if mean_iou(single.counts(), "either") > best_mean:
            best, best_mean = value, mean_iou(single.counts(), "either")
    chosen, counts = sweep.best("either")
    assert chosen == best
    assert mean_iou(counts, "either") == best_mean


def test_the_lowest_of_equal_values_is_chosen():
    sweep = SweepScore(1, 255, power=False)
    sweep.add(np.array([[0, 1]]), np.array([[[0.2, 0.9]]], np.float32), np.array([1]))
    assert sweep.best("either")[0] == 0.2


def test_ignored_pixels_of_a_prediction_are_misses_unless_skipped():
    truth, prediction = np.array([[1, 1, 0, 255]]), np.array([[1, 255, 0, 1]])
    missed, skipped = (MaskScore(1, 255, skip_ignored=skip) for skip in (False, True))
    for score in (missed, skipped):
        score.add(truth, prediction)
    assert summary_of(missed.counts(), ("background", "cat"), "either")[1] == {"background": 1.0, "cat": 0.5}
    assert summary_of(skipped.counts(), ("background", "cat"), "either")[1] == {"background": 1.0, "cat": 1.0}
    assert missed.decided == 2


def test_the_three_rules_and_a_class_that_is_nowhere():
    # background right, cat half right, dog predicted but not in the truth, bird nowhere
    counts = Counts(np.array([10, 5, 0, 0]), np.array([10, 10, 0, 0]), np.array([10, 5, 5, 0]))
    classes = ("background", "cat", "dog", "bird")
    either, each = summary_of(counts, classes, "either")
    assert each == {"background": 1.0, "cat": 0.5, "dog": 0.0, "bird": None}
    assert either == pytest.approx(1.5 / 3)
    assert summary_of(counts, classes, "truth")[0] == pytest.approx(1.5 / 2)
    assert summary_of(counts, classes, "all")[0] == pytest.approx(1.5 / 4)


def test_an_empty_background_is_left_out():
    counts = Counts(np.array([0, 5]), np.array([0, 10]), np.array([3, 5]))
    assert summary_of(counts, ("", "cat"), "either") == (0.5, {"cat": 0.5})


def test_nothing_to_count_is_no_number():
    nothing = Counts(*(np.zeros(2, np.int64) for _ in range(3)))
    assert summary_of(nothing, ("background", "cat"), "either") == (None, {"background": None, "cat": None})

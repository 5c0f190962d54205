"""Scores of images: values computed by hand, sums that equal those of eval, and the choice of images."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.mean_iou import count_pixels
from stages.report.page import format_json
from stages.report.score_images import (
    RunScore,
    choose_images,
    compute_disagreement,
    count_cooccurrences,
    sort_worst_first,
)
from stages.report.summary import build_summary, compute_intervals, join_names

TRUTH = np.array([[0, 0, 1, 1], [0, 2, 255, 1]], np.uint8)
PREDICTION = np.array([[0, 1, 1, 255], [0, 2, 2, 1]], np.uint8)


def test_scores_of_an_image():
    """Background 2 of 3, class 1 2 of 4 (one false, one ignored), class 2 1 of 1; the ignored pixel does not count."""
    score = RunScore(3, 255, has_background=True)
    score.add("a", TRUTH, PREDICTION)
    assert score.compute_image_iou("a") == pytest.approx((2 / 3 + 2 / 4 + 1) / 3)
    assert score.compute_image_iou("b") is None
    np.testing.assert_allclose(score.compute_class_iou(), [2 / 3, 1 / 2, 1, np.nan])
    without = RunScore(3, 255, has_background=False)
    without.add("a", TRUTH, PREDICTION)
    assert without.compute_image_iou("a") == pytest.approx((2 / 4 + 1) / 2)
    assert without.compute_mean_iou() == pytest.approx((2 / 4 + 1) / 2)


def test_counts_of_images_add_up_to_the_matrix():
    score, random = RunScore(4, 255, has_background=True), np.random.default_rng(0)
    for number in range(5):
        score.add(str(number), *random.integers(0, 3 + number % 3, (2, 6, 7)).astype(np.uint8))
    counts = score.stack_counts()
    assert counts.shape == (5, 15)
    assert np.array_equal(np.asarray(counts.sum(axis=0)).reshape(-1, 3), np.stack(count_pixels(score.matrix), axis=1))
    intervals = compute_intervals({0: score, 1: score}, 100, 0)
    assert intervals[1].difference == (0, 0)
    assert intervals[0].mean[0] <= score.compute_mean_iou() <= intervals[0].mean[1]
    assert compute_intervals({0: score}, 0, 0) == {}


def test_disagreement_is_symmetric_and_skips_ignored_pixels():
    assert compute_disagreement(TRUTH, TRUTH, 2, 255) == 0
    value = compute_disagreement(TRUTH, PREDICTION, 2, 255)
    assert value == compute_disagreement(PREDICTION, TRUTH, 2, 255) == pytest.approx(1 - (2 / 3 + 2 / 3 + 1) / 3)
    ignored = np.full((2, 4), 255, np.uint8)
    assert compute_disagreement(ignored, TRUTH, 2, 255) is None


def test_cooccurrences():
    assert count_cooccurrences([(1, 2), (2,), ()], 3).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_choice_and_order():
    ids = list("abcdef")
    assert choose_images(ids, 0, "even", 0) == choose_images(ids, 9, "random", 0) == ids
    assert choose_images(ids, 1, "even", 0) == ["a"]
    values = {"a": 0.5, "b": None, "c": 0.1, "d": 0.5}
    assert sort_worst_first("abcd", values, is_high_bad=False) == ["c", "a", "d", "b"]
    assert sort_worst_first("abcd", values, is_high_bad=True) == ["a", "d", "c", "b"]


def test_json_cannot_end_a_script():
    text = format_json({"name": "</script><!--", "line": "\u2028"})
    assert "<" not in text
    with pytest.raises(ValueError, match="JSON compliant"):
        format_json(float("nan"))


def test_sentences():
    assert join_names(["a"]) == "a"
    assert join_names(["a", "b", "c"]) == "a, b and c"
    assert join_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert build_summary(5, 3, 2, ["a", "b"]) == [
        "2 runs over the same 5 images, 2 of them with ground truth.",
        "The scores are over all images; 3 of them are shown below."]

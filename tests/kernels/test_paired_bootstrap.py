"""The bootstrap over images: compared with the definition, and with intervals whose true value is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from stages.kernels import paired_bootstrap
from stages.kernels.mean_iou import PixelCounts, iou_per_class, mean_iou
from stages.kernels.paired_bootstrap import (
    compute_interval,
    compute_iou,
    compute_mean_iou,
    compute_paired_difference,
    resample_counts,
    resample_iou,
    resample_mean_iou,
)


def draw_counts(random: np.random.Generator, num_images: int, quality: float = 0.6) -> np.ndarray:
    """Draw counts (N, 4, 3) of images that have the background and one of three classes, each of its own size."""
    counts = np.zeros((num_images, 4, 3), np.int32)
    rows = np.arange(num_images)
    labels = random.integers(1, 4, num_images)
    size = random.integers(200, 2000, num_images)
    hits = (size * np.clip(random.normal(quality, 0.2, num_images), 0, 1)).astype(int)
    extra = random.integers(0, 400, num_images)
    counts[rows, labels] = np.stack([hits, size, hits + extra], axis=1)
    counts[:, 0] = np.stack([3000 - size - extra, 3000 - size, 3000 - hits - extra], axis=1)
    return counts


@pytest.mark.parametrize("block", [1, 50, 1 << 21])
def test_counts_are_those_of_the_drawn_images(monkeypatch, block):
    monkeypatch.setattr(paired_bootstrap, "_BLOCK_WEIGHTS", block)
    counts = draw_counts(np.random.default_rng(1), 12)
    random = np.random.default_rng(5)
    expected = [counts[random.integers(12, size=12)].sum(axis=0) for _ in range(9)]
    np.testing.assert_array_equal(resample_counts(counts, 9, 5), expected)


def test_sparse_counts_give_the_same():
    counts = draw_counts(np.random.default_rng(2), 30)
    matrix = sparse.csr_matrix(counts.reshape(30, -1))
    np.testing.assert_array_equal(resample_counts(matrix, 20, 0), resample_counts(counts, 20, 0))
    other = draw_counts(np.random.default_rng(3), 30)
    dense_result = compute_paired_difference(counts, other, 20, 0)
    sparse_result = compute_paired_difference(matrix, sparse.csr_matrix(other.reshape(30, -1)), 20, 0)
    assert dense_result[:2] == sparse_result[:2]


def test_equal_seeds_give_equal_draws():
    counts = draw_counts(np.random.default_rng(4), 25)
    np.testing.assert_array_equal(resample_iou(counts, 10, 7), resample_iou(counts, 10, 7))
    assert not np.array_equal(resample_iou(counts, 10, 7), resample_iou(counts, 10, 8))


@pytest.mark.parametrize("rule", ["either", "truth", "all"])
def test_scores_follow_the_rules_of_the_project(rule):
    # Of four classes one is in truth and prediction, one is only predicted, one only true, one nowhere.
    totals = np.array([[[5, 10, 10], [0, 0, 5], [0, 5, 0], [0, 0, 0]], np.zeros((4, 3))])
    for row, value in zip(totals, compute_mean_iou(totals, rule), strict=True):
        counts = PixelCounts(*row.T)
        np.testing.assert_array_equal(compute_iou(row), iou_per_class(counts))
        np.testing.assert_equal(float(value), mean_iou(counts, rule))


def test_a_class_that_a_draw_misses_does_not_count_in_it():
    counts = np.zeros((2, 2, 3), int)
    counts[0, 0], counts[1, 1] = (1, 1, 1), (1, 2, 2)
    values = resample_mean_iou(counts, 50, 0)
    # Drawn twice the first image, twice the second, or both: IoU 1, 1/3, or their mean.
    assert set(np.round(values, 12)) == {1.0, round(1 / 3, 12), round(2 / 3, 12)}


def test_interval_of_known_values():
    assert compute_interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
    assert compute_interval(np.array([np.nan, 1, 2, 3]), 0.5) == pytest.approx((1.5, 2.5))
    assert np.isnan(compute_interval(np.full(3, np.nan))).all()


def test_a_run_does_not_differ_from_itself():
    counts = draw_counts(np.random.default_rng(6), 20)
    difference = compute_paired_difference(counts, counts, 50, 0)
    assert (difference.value, difference.interval) == (0, (0, 0))


def test_pairs_narrow_the_interval():
    """Run b is a little better than run a on every image: its own interval is wide, that of the difference narrow."""
    random = np.random.default_rng(8)
    counts = draw_counts(random, 200)
    better = counts.copy()
    added = (counts[..., 1] - counts[..., 0])[:, 1:] // 20
    better[:, 1:, 0] += added
    better[:, 1:, 2] += added
    difference = compute_paired_difference(counts, better, 400, 0)
    assert 0 < difference.interval[0] < difference.value < difference.interval[1]
    low, high = compute_interval(resample_mean_iou(counts, 400, 0))
    assert difference.interval[1] - difference.interval[0] < (high - low) / 5


def test_intervals_cover_the_true_difference():
    """Of 200 experiments with 100 images each, the intervals at 90 % hold the true difference in 90 %.

    The population is 4000 images, so that its difference is known. Binomial noise of 200 experiments is 2.1 points;
    four times that is allowed below, and intervals from half as many images would cover 98 %.
    """
    random = np.random.default_rng(9)
    counts_a, counts_b = draw_counts(random, 4000, 0.6), draw_counts(random, 4000, 0.65)
    truth = float(compute_mean_iou(counts_b.sum(axis=0)) - compute_mean_iou(counts_a.sum(axis=0)))
    num_covered = 0
    for seed in range(200):
        sample = random.integers(4000, size=100)
        low, high = compute_paired_difference(counts_a[sample], counts_b[sample], 300, seed, level=0.9).interval
        num_covered += low <= truth <= high
    assert 0.9 - 0.085 <= num_covered / 200 <= 0.9 + 0.07


@pytest.mark.parametrize("counts", [np.zeros((4, 3)), np.zeros((4, 2, 2)), np.zeros((0, 2, 3)),
                                    sparse.csr_matrix((4, 4))])
def test_rejects_what_is_no_counts(counts):
    with pytest.raises(ValueError, match=r"counts|images"):
        resample_counts(counts, 5, 0)


def test_rejects_other_shapes_levels_and_rules():
    counts = draw_counts(np.random.default_rng(1), 4)
    with pytest.raises(ValueError, match="differ in shape"):
        compute_paired_difference(counts, counts[:3], 5, 0)
    with pytest.raises(ValueError, match="level 95"):
        compute_interval(np.zeros(3), 95)
    with pytest.raises(ValueError, match="rule 'voc'"):
        compute_mean_iou(counts, "voc")
    with pytest.raises(ValueError, match="0 draws"):
        resample_counts(counts, 0, 0)

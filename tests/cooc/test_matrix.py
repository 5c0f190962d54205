"""Counts and probabilities of pairs of classes."""

from __future__ import annotations

import numpy as np
import pytest

from stages.cooc.matrix import compute_probability, count_cooccurrences

# Five images of three classes: {1}, {1, 2}, none, {1, 2, 3}, {2}.
CLASS_IDS, LABELS_PER_IMAGE = np.array([1, 1, 2, 1, 2, 3, 2], dtype=np.uint16), np.array([1, 2, 0, 3, 1])


@pytest.mark.parametrize(("diagonal", "expected_diagonal"),
                         [("single", (1, 1, 0)), ("all", (3, 3, 1)), ("zero", (0, 0, 0))])
def test_counts_of_five_images(diagonal, expected_diagonal):
    counts, single = count_cooccurrences(CLASS_IDS, LABELS_PER_IMAGE, 3, diagonal)
    assert counts.dtype == single.dtype == np.int64
    assert counts.tolist() == [[expected_diagonal[0], 2, 1], [2, expected_diagonal[1], 1], [1, 1, expected_diagonal[2]]]
    assert single.tolist() == [1, 1, 0]


def test_probability_divides_each_row_by_its_sum():
    counts, _ = count_cooccurrences(CLASS_IDS, LABELS_PER_IMAGE, 3, "single")
    probability = compute_probability(counts)
    assert probability.dtype == np.float64
    np.testing.assert_allclose(probability, [[1 / 4, 2 / 4, 1 / 4], [2 / 4, 1 / 4, 1 / 4], [1 / 2, 1 / 2, 0]],
                               rtol=1e-15)


def test_class_without_samples_has_a_row_of_zeros():
    counts, single = count_cooccurrences(np.array([1, 1, 3]), np.array([1, 2]), 4, "single")
    assert counts.tolist() == [[1, 0, 1, 0], [0] * 4, [1, 0, 0, 0], [0] * 4]
    assert compute_probability(counts).tolist() == [[0.5, 0, 0.5, 0], [0] * 4, [1, 0, 0, 0], [0] * 4]
    assert single.tolist() == [1, 0, 0, 0]


def test_one_class_and_no_images():
    counts, single = count_cooccurrences(np.array([1, 1]), np.array([1, 0, 1]), 1, "single")
    assert (counts.tolist(), single.tolist()) == ([[2]], [2])
    assert count_cooccurrences(np.array([1]), np.array([1]), 1, "zero")[0].tolist() == [[0]]
    empty = np.zeros(0, dtype=np.int64)
    counts, single = count_cooccurrences(empty, empty, 2, "all")
    assert not counts.any() and not single.any() and not compute_probability(counts).any()


@pytest.mark.parametrize("num_classes", [1, 7, 90])
def test_agrees_with_the_product_of_the_label_table(num_classes):
    labels = np.random.default_rng(num_classes).random((400, num_classes)) < 0.15
    counts, single = count_cooccurrences(np.nonzero(labels)[1] + 1, labels.sum(axis=1), num_classes, "all")
    np.testing.assert_array_equal(counts, labels.T.astype(np.int64) @ labels)
    np.testing.assert_array_equal(single, labels[labels.sum(axis=1) == 1].sum(axis=0))

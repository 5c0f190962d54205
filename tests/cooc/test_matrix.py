"""Counts and probabilities of pairs of classes."""

from __future__ import annotations

import numpy as np
import pytest

from stages.cooc.matrix import counts_of, probability_of

# Five images of three classes: {1}, {1, 2}, none, {1, 2, 3}, {2}.
CLASS_IDS, PER_IMAGE = np.array([1, 1, 2, 1, 2, 3, 2], dtype=np.uint16), np.array([1, 2, 0, 3, 1])


@pytest.mark.parametrize(("diagonal", "own"), [("single", (1, 1, 0)), ("all", (3, 3, 1)), ("zero", (0, 0, 0))])
def test_a_set_worked_out_by_hand(diagonal, own):
    counts, single = counts_of(CLASS_IDS, PER_IMAGE, 3, diagonal)
    assert counts.dtype == single.dtype == np.int64
    assert counts.tolist() == [[own[0], 2, 1], [2, own[1], 1], [1, 1, own[2]]]
    assert single.tolist() == [1, 1, 0]


def test_each_row_of_the_probabilities_is_divided_by_its_sum():
    counts, _ = counts_of(CLASS_IDS, PER_IMAGE, 3, "single")
    found = probability_of(counts)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[1 / 4, 2 / 4, 1 / 4], [2 / 4, 1 / 4, 1 / 4], [1 / 2, 1 / 2, 0]], rtol=1e-15)


def test_a_class_without_samples_has_a_row_of_zeros():
    counts, single = counts_of(np.array([1, 1, 3]), np.array([1, 2]), 4, "single")
    assert counts.tolist() == [[1, 0, 1, 0], [0] * 4, [1, 0, 0, 0], [0] * 4]
    assert probability_of(counts).tolist() == [[0.5, 0, 0.5, 0], [0] * 4, [1, 0, 0, 0], [0] * 4]
    assert single.tolist() == [1, 0, 0, 0]


def test_one_class_alone_and_no_image_at_all():
    assert [one.tolist() for one in counts_of(np.array([1, 1]), np.array([1, 0, 1]), 1, "single")] == [[[2]], [2]]
    assert counts_of(np.array([1]), np.array([1]), 1, "zero")[0].tolist() == [[0]]
    none = np.zeros(0, dtype=np.int64)
    counts, single = counts_of(none, none, 2, "all")
    assert not counts.any() and not single.any() and not probability_of(counts).any()


@pytest.mark.parametrize("n_classes", [1, 7, 90])
def test_the_same_as_the_product_of_the_label_table(n_classes):
    labels = np.random.default_rng(n_classes).random((400, n_classes)) < 0.15
    counts, single = counts_of(np.nonzero(labels)[1] + 1, labels.sum(axis=1), n_classes, "all")
    np.testing.assert_array_equal(counts, labels.T.astype(np.int64) @ labels)
    np.testing.assert_array_equal(single, labels[labels.sum(axis=1) == 1].sum(axis=0))

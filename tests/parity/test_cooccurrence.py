"""Co-occurrence counts of the labels of VOC 2012 with all three diagonals, and the weights of a source class."""

from __future__ import annotations

import numpy as np
import pytest

from stages.cooc.matrix import compute_probability, count_cooccurrences


@pytest.fixture(scope="module")
def values(reference):
    return reference("cam-methods/voc12_labels_cooccurrence")


def count_labels(labels, diagonal):
    return count_cooccurrences(np.nonzero(labels)[1] + 1, labels.sum(axis=1, dtype=np.int64), labels.shape[1], diagonal)


@pytest.mark.parametrize("diagonal", ["single", "all", "zero"])
@pytest.mark.parametrize("split", ["train", "train_aug", "val"])
def test_counts_and_probabilities_match(values, split, diagonal):
    labels = values[f"{split}_labels"]
    counts, single = count_labels(labels, diagonal)
    np.testing.assert_array_equal(counts, values[f"{split}_N_diag_{diagonal}"])
    np.testing.assert_array_equal(single, values[f"{split}_single_per_class"])
    np.testing.assert_allclose(compute_probability(counts), values[f"{split}_P_diag_{diagonal}"], rtol=1e-12)


@pytest.mark.parametrize("split", ["train", "train_aug", "val"])
def test_numbers_of_labels_per_image_match(values, split):
    labels, expected = values[f"{split}_labels"], values[f"{split}_n_labels_hist"]
    np.testing.assert_array_equal(np.bincount(labels.sum(axis=1), minlength=len(expected)), expected)
    all_counts, single_counts = count_labels(labels, "all")
    np.testing.assert_array_equal(all_counts.diagonal() - single_counts, values[f"{split}_multi_per_class"])


@pytest.mark.parametrize("diagonal", ["single", "zero"])
def test_rows_of_the_classes_of_an_image_sum_to_its_source_class_weights(values, diagonal):
    horse, person = 12, 14
    probability = compute_probability(count_labels(values["train_aug_labels"], diagonal)[0])
    weights = probability[[horse, person]].sum(axis=0)
    np.testing.assert_allclose(weights / weights.sum(), values[f"example_horse_person_prob_diag_{diagonal}"],
                               rtol=1e-12)

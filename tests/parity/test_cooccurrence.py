"""Co-occurrence on the labels of VOC 2012: all three diagonals, and the draw of a source class."""

from __future__ import annotations

import numpy as np
import pytest

from stages.cooc.matrix import counts_of, probability_of


@pytest.fixture(scope="module")
def values(reference):
    return reference("cam-methods/voc12_labels_cooccurrence")


def counted(labels, diagonal):
    return counts_of(np.nonzero(labels)[1] + 1, labels.sum(axis=1, dtype=np.int64), labels.shape[1], diagonal)


@pytest.mark.parametrize("diagonal", ["single", "all", "zero"])
@pytest.mark.parametrize("split", ["train", "train_aug", "val"])
def test_counts_and_probabilities(values, split, diagonal):
    labels = values[f"{split}_labels"]
    counts, single = counted(labels, diagonal)
    np.testing.assert_array_equal(counts, values[f"{split}_N_diag_{diagonal}"])
    np.testing.assert_array_equal(single, values[f"{split}_single_per_class"])
    np.testing.assert_allclose(probability_of(counts), values[f"{split}_P_diag_{diagonal}"], rtol=1e-12)


@pytest.mark.parametrize("split", ["train", "train_aug", "val"])
def test_images_by_their_number_of_labels(values, split):
    labels, wanted = values[f"{split}_labels"], values[f"{split}_n_labels_hist"]
    np.testing.assert_array_equal(np.bincount(labels.sum(axis=1), minlength=len(wanted)), wanted)
    every, alone = counted(labels, "all")
    np.testing.assert_array_equal(every.diagonal() - alone, values[f"{split}_multi_per_class"])


@pytest.mark.parametrize("diagonal", ["single", "zero"])
def test_the_rows_of_an_image_sum_to_the_weights_of_its_source_class(values, diagonal):
    horse, person = 12, 14
    probability = probability_of(counted(values["train_aug_labels"], diagonal)[0])
    weights = probability[[horse, person]].sum(axis=0)
    np.testing.assert_allclose(weights / weights.sum(), values[f"example_horse_person_prob_diag_{diagonal}"],
                               rtol=1e-12)

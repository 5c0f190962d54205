"""Which single-label image is drawn for a target, and how often."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from stages.train_cls.pairing import Sources

# Three classes; the third has no single-label image.
PROBABILITY = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
IMAGES = {1: ["a", "b"], 2: ["c", "d", "e", "f"], 3: []}


def sources(resampling: str, images=IMAGES) -> Sources[str]:
    return Sources(images, 3, resampling, PROBABILITY)


@pytest.mark.parametrize(("resampling", "wanted"), [
    ("cooc", np.array([0.6, 0.9, 0]) / 1.5), ("off", np.array([2, 4, 0]) / 6), ("classes", np.array([0.5, 0.5, 0]))])
def test_weights_by_hand_and_frequencies(resampling, wanted):
    found = sources(resampling)
    np.testing.assert_allclose(found.weights((1, 2)), wanted, rtol=1e-12)
    rng = np.random.default_rng(11)
    drawn = [found.draw((1, 2), rng) for _ in range(6000)]
    assert {image for _, image in drawn} == set("abcdef")
    assert all(image in IMAGES[class_id] for class_id, image in drawn)
    expected = {image: 6000 * wanted[class_id - 1] / len(IMAGES[class_id])
                for class_id in (1, 2) for image in IMAGES[class_id]}
    counted = [sum(image == one for _, one in drawn) for image in expected]
    assert chisquare(counted, list(expected.values())).pvalue > 0.01


def test_only_cooc_looks_at_the_classes_of_the_target():
    for resampling in ("off", "classes"):
        one = sources(resampling)
        np.testing.assert_array_equal(one.weights((1, 2)), one.weights((3,)))
    one = sources("cooc")
    assert not np.allclose(one.weights((1,)), one.weights((2,)))


def test_a_target_for_which_nothing_can_be_drawn():
    found = Sources({1: [], 2: [], 3: ["a"]}, 3, "cooc", np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1.0]]))
    assert not found.weights((1, 2)).any()
    assert found.draw((1, 3), np.random.default_rng(0)) == (3, "a")


def test_the_same_by_the_paper_on_voc(reference):
    """The weights of a horse with a person, whose rows are known."""
    values = reference("cam-methods/voc12_labels_cooccurrence")
    probability = values["train_aug_P_diag_single"]
    images = {class_id: range(count) for class_id, count in enumerate(values["train_aug_single_per_class"], 1)}
    found = Sources(images, len(probability), "cooc", probability).weights((13, 15))
    np.testing.assert_allclose(found, values["example_horse_person_prob_diag_single"], rtol=1e-10)

"""Single-label images drawn for a target, and their frequencies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from stages.train_cls.pairing import SingleLabelSampler

# Three classes; the third has no single-label image.
PROBABILITY = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
IMAGES = {1: ["a", "b"], 2: ["c", "d", "e", "f"], 3: []}


def build_sampler(resampling: str, images=IMAGES) -> SingleLabelSampler[str]:
    return SingleLabelSampler(images, 3, resampling, PROBABILITY)


@pytest.mark.parametrize(("resampling", "probabilities"), [
    ("cooc", np.array([0.6, 0.9, 0]) / 1.5), ("off", np.array([2, 4, 0]) / 6), ("classes", np.array([0.5, 0.5, 0]))])
def test_class_probabilities_and_draw_frequencies(resampling, probabilities):
    sampler = build_sampler(resampling)
    np.testing.assert_allclose(sampler.compute_class_probabilities((1, 2)), probabilities, rtol=1e-12)
    rng = np.random.default_rng(11)
    draws = [sampler.draw((1, 2), rng) for _ in range(6000)]
    assert {image for _, image in draws} == set("abcdef")
    assert all(image in IMAGES[class_id] for class_id, image in draws)
    expected = {image: 6000 * probabilities[class_id - 1] / len(IMAGES[class_id])
                for class_id in (1, 2) for image in IMAGES[class_id]}
    counts = [sum(image == drawn_image for _, drawn_image in draws) for image in expected]
    assert chisquare(counts, list(expected.values())).pvalue > 0.01


def test_only_cooc_depends_on_the_classes_of_the_target():
    for resampling in ("off", "classes"):
        sampler = build_sampler(resampling)
        np.testing.assert_array_equal(sampler.compute_class_probabilities((1, 2)),
                                      sampler.compute_class_probabilities((3,)))
    sampler = build_sampler("cooc")
    assert not np.allclose(sampler.compute_class_probabilities((1,)), sampler.compute_class_probabilities((2,)))


def test_target_without_a_class_to_draw():
    probability = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1.0]])
    sampler = SingleLabelSampler({1: [], 2: [], 3: ["a"]}, 3, "cooc", probability)
    assert not sampler.compute_class_probabilities((1, 2)).any()
    assert sampler.draw((1, 3), np.random.default_rng(0)) == (3, "a")


def test_class_probabilities_equal_the_reference_on_voc(reference):
    """The reference has the class probabilities of an image of a horse and a person."""
    values = reference("cam-methods/voc12_labels_cooccurrence")
    probability = values["train_aug_P_diag_single"]
    images = {class_id: range(count) for class_id, count in enumerate(values["train_aug_single_per_class"], 1)}
    sampler = SingleLabelSampler(images, len(probability), "cooc", probability)
    np.testing.assert_allclose(sampler.compute_class_probabilities((13, 15)),
                               values["example_horse_person_prob_diag_single"], rtol=1e-10)

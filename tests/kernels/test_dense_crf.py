"""Unary energies and edge cases of the dense CRF."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stages.kernels.dense_crf import CRF_PRESETS, DenseCrfSettings, dense_crf, unary_from_labels, unary_from_scores


@pytest.fixture
def two_tone_image() -> np.ndarray:
    """Return an image that is dark on the left and bright on the right."""
    image = np.full((16, 20, 3), 30, dtype=np.uint8)
    image[:, 10:] = 220
    return image


def test_scores_are_clipped_but_not_normalised():
    scores = np.array([0.0, 0.2, 1.0, 1.5]).reshape(4, 1, 1)
    assert unary_from_scores(scores).ravel() == pytest.approx([-np.log(1e-5), -np.log(0.2), 0, 0], rel=1e-6)


def test_other_labels_share_remaining_probability():
    probabilities = np.exp(-unary_from_labels(np.array([[0, 2]]), 3, 0.7))
    np.testing.assert_allclose(probabilities[:, 0, 0], [0.7, 0.15, 0.15], rtol=1e-6)
    np.testing.assert_allclose(probabilities[:, 0, 1], [0.15, 0.15, 0.7], rtol=1e-6)


@pytest.mark.parametrize(("labels", "confidence"), [([[0, 3]], 0.7), ([[0, 1]], 1.0), ([[0, 1]], 0.0)])
def test_invalid_labels_and_confidence_raise(labels, confidence):
    with pytest.raises(ValueError):
        unary_from_labels(np.array(labels), 3, confidence)


def test_single_label_needs_no_pydensecrf(two_tone_image, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    unary = unary_from_labels(np.zeros((16, 20), dtype=np.uint8), 1)
    posteriors = dense_crf(two_tone_image, unary, DenseCrfSettings())
    np.testing.assert_array_equal(posteriors, np.ones((1, 16, 20), np.float32))
    with pytest.raises(ModuleNotFoundError):
        dense_crf(two_tone_image, np.zeros((2, 16, 20), np.float32), DenseCrfSettings(), "pydensecrf")


def test_result_follows_image_edge(two_tone_image):
    labels = np.zeros((16, 20), dtype=np.uint8)
    labels[:, 12:] = 1
    posteriors = dense_crf(two_tone_image, unary_from_labels(labels, 2, 0.7), CRF_PRESETS["irn"])
    np.testing.assert_allclose(posteriors.sum(axis=0), 1, atol=1e-5)
    assert posteriors.dtype == np.float32
    np.testing.assert_array_equal(posteriors.argmax(axis=0), np.arange(20)[None] >= np.full((16, 1), 10))


def test_non_contiguous_arrays(two_tone_image):
    unary = unary_from_labels((np.indices((20, 16)).sum(axis=0) % 2).T, 2)
    fortran_image = np.asfortranarray(two_tone_image)
    posteriors = dense_crf(fortran_image, np.asfortranarray(unary), CRF_PRESETS["psa"])
    np.testing.assert_array_equal(posteriors, dense_crf(two_tone_image, unary, CRF_PRESETS["psa"]))


def test_wrong_shapes_and_nan_raise(two_tone_image):
    with pytest.raises(ValueError, match="does not fit"):
        dense_crf(two_tone_image, np.zeros((2, 16, 21), np.float32), DenseCrfSettings())
    with pytest.raises(ValueError, match="not finite"):
        dense_crf(two_tone_image, np.full((2, 16, 20), np.nan, np.float32), DenseCrfSettings())

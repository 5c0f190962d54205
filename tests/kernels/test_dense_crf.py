"""The unary energies and the limits of the dense CRF."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stages.kernels.dense_crf import PRESETS, DenseCrf, dense_crf, unary_from_labels, unary_from_scores


@pytest.fixture
def halves() -> np.ndarray:
    """A photograph of two halves: dark left, bright right."""
    image = np.full((16, 20, 3), 30, dtype=np.uint8)
    image[:, 10:] = 220
    return image


def test_scores_are_clipped_and_not_normalised():
    scores = np.array([0.0, 0.2, 1.0, 1.5]).reshape(4, 1, 1)
    assert unary_from_scores(scores).ravel() == pytest.approx([-np.log(1e-5), -np.log(0.2), 0, 0], rel=1e-6)


def test_labels_share_the_rest_evenly():
    probabilities = np.exp(-unary_from_labels(np.array([[0, 2]]), 3, 0.7))
    np.testing.assert_allclose(probabilities[:, 0, 0], [0.7, 0.15, 0.15], rtol=1e-6)
    np.testing.assert_allclose(probabilities[:, 0, 1], [0.15, 0.15, 0.7], rtol=1e-6)


@pytest.mark.parametrize(("labels", "confidence"), [([[0, 3]], 0.7), ([[0, 1]], 1.0), ([[0, 1]], 0.0)])
def test_labels_and_confidence_are_checked(labels, confidence):
    with pytest.raises(ValueError):
        unary_from_labels(np.array(labels), 3, confidence)


def test_one_label_gives_ones_without_the_package(halves, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    unary = unary_from_labels(np.zeros((16, 20), dtype=np.uint8), 1)
    np.testing.assert_array_equal(dense_crf(halves, unary, DenseCrf()), np.ones((1, 16, 20), np.float32))
    with pytest.raises(ModuleNotFoundError):
        dense_crf(halves, np.zeros((2, 16, 20), np.float32), DenseCrf())


def test_the_edge_of_the_photograph_wins(halves):
    pytest.importorskip("pydensecrf")
    labels = np.zeros((16, 20), dtype=np.uint8)
    labels[:, 12:] = 1
    posteriors = dense_crf(halves, unary_from_labels(labels, 2, 0.7), PRESETS["irn"])
    np.testing.assert_allclose(posteriors.sum(axis=0), 1, atol=1e-5)
    assert posteriors.dtype == np.float32
    np.testing.assert_array_equal(posteriors.argmax(axis=0), np.arange(20)[None] >= np.full((16, 1), 10))


def test_arrays_may_be_views(halves):
    pytest.importorskip("pydensecrf")
    unary = unary_from_labels((np.indices((20, 16)).sum(axis=0) % 2).T, 2)
    turned = np.asfortranarray(halves)
    np.testing.assert_array_equal(
        dense_crf(turned, np.asfortranarray(unary), PRESETS["psa"]), dense_crf(halves, unary, PRESETS["psa"])
    )


def test_wrong_shapes_and_nan_are_refused(halves):
    with pytest.raises(ValueError, match="does not fit"):
        dense_crf(halves, np.zeros((2, 16, 21), np.float32), DenseCrf())
    with pytest.raises(ValueError, match="not finite"):
        dense_crf(halves, np.full((2, 16, 20), np.nan, np.float32), DenseCrf())

"""The dense CRF of this package against pydensecrf, and on the arrays that it keeps no memory of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.errors import BadData
from stages.kernels.dense_crf import CRF_PRESETS, DenseCrfSettings, dense_crf, unary_from_scores

STORED = Path(__file__).parents[1] / "reference" / "crf"


def draw_photograph(height: int, width: int, num_labels: int, texture: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a seeded image (H, W, 3) of soft shapes with noise, and scores (L, H, W) that fit it roughly."""
    generator = np.random.default_rng(height * width + num_labels)
    y, x = np.mgrid[:height, :width]
    centres = generator.random((num_labels, 2)) * (height, width)
    distance = np.stack([np.hypot(y - row, x - column) for row, column in centres])
    colours = generator.integers(20, 236, (num_labels, 3))
    image = colours[distance.argmin(axis=0)] + generator.normal(0, texture, (height, width, 3))
    scores = np.exp(-distance / 15) * (0.6 + 0.4 * generator.random((num_labels, height, width)))
    return image.clip(0, 255).astype(np.uint8), scores.astype(np.float32)


# Sizes with every remainder modulo 4, one row, one column; two labels to many; smooth and textured.
CASES = [(48, 64, 2, 3.0), (37, 53, 3, 3.0), (41, 50, 4, 30.0), (33, 67, 6, 60.0), (1, 29, 2, 5.0), (31, 1, 3, 5.0)]


@pytest.mark.parametrize("preset", ["irn", "psa", "clip-es"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_posteriors_equal_those_of_pydensecrf(case, preset):
    pytest.importorskip("pydensecrf")
    image, scores = draw_photograph(*case)
    unary = unary_from_scores(scores)
    # One iteration of float32 sums, whose messages are up to 14: a wrong vertex or norm shows as 1e-3 or more.
    settings = replace(CRF_PRESETS[preset], iterations=1)
    actual, expected = dense_crf(image, unary, settings), dense_crf(image, unary, settings, "pydensecrf")
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=0)
    actual, expected = (dense_crf(image, unary, CRF_PRESETS[preset], engine) for engine in ("numba", "pydensecrf"))
    assert np.abs(actual - expected).mean() <= 1e-6
    assert (actual.argmax(axis=0) != expected.argmax(axis=0)).sum() == 0


@pytest.mark.parametrize("path", sorted(STORED.glob("*.npz")), ids=lambda path: path.stem)
def test_posteriors_equal_stored_ones_of_pydensecrf(path):
    """The same comparison where pydensecrf is not installed."""
    preset = CRF_PRESETS[path.stem[:path.stem.rindex("-", 0, path.stem.rindex("-"))]]
    with np.load(path) as stored:
        image, unary = stored["image"], stored["unary"]
        one_iteration, expected = stored["posterior_1"], stored["posterior"]
    np.testing.assert_allclose(dense_crf(image, unary, replace(preset, iterations=1)), one_iteration, atol=2e-5, rtol=0)
    actual = dense_crf(image, unary, preset)
    assert np.abs(actual - expected).mean() <= 1e-6
    assert (actual.argmax(axis=0) != expected.argmax(axis=0)).sum() == 0


def test_same_input_gives_same_bytes():
    image, scores = draw_photograph(37, 53, 3, 10.0)
    first, second = (dense_crf(image, unary_from_scores(scores), CRF_PRESETS["psa"]) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_narrow_kernels_are_computed_or_rejected():
    image, scores = draw_photograph(20, 24, 2, 30.0)
    unary = unary_from_scores(scores)
    narrow = DenseCrfSettings(bilateral_sxy=0.1, bilateral_srgb=0.1, gaussian_weight=0.0)
    # No pixel has a neighbour that it would agree with, so only its own label counts, and it wins more clearly.
    np.testing.assert_array_equal(dense_crf(image, unary, narrow).argmax(axis=0), scores.argmax(axis=0))
    wide_image, wide_unary = np.zeros((2, 60_000, 3), np.uint8), np.zeros((2, 2, 60_000), np.float32)
    with pytest.raises(BadData, match="60000 x 2"):
        dense_crf(wide_image, wide_unary, narrow)

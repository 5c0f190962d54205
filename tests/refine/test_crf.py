"""`refine crf` from CAMs to posteriors: presets, unary potentials, overrides."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stages.kernels.background import Background
from stages.kernels.dense_crf import CRF_PRESETS, dense_crf, unary_from_scores
from stages.refine.config import CrfConfig
from stages.refine.crf import refine_with_crf, resolve_crf_settings, should_use_labels

ONE_STEP = 1 / 255 + 1e-4


def match_keys(values, pattern: str) -> list[str]:
    """Return the matches of the group of `pattern` among the keys; there is at least one."""
    matches = [match[1] for key in values if (match := re.fullmatch(pattern, key))]
    assert matches
    return matches


def test_psa_preset_matches_reference(reference):
    values = reference("cam-methods/dense_crf")
    cam = values["cam"]
    for power in match_keys(values, r"psa_alpha([\d.]+)_out"):
        posteriors, ids = refine_with_crf(values["img"], cam, np.arange(1, len(cam) + 1, dtype=np.uint16),
                                          Background("power", (float(power),)), CrfConfig(preset="psa"))
        np.testing.assert_array_equal(ids, np.arange(len(cam) + 1))
        np.testing.assert_allclose(posteriors / 255, values[f"psa_alpha{power}_out"], atol=ONE_STEP, rtol=0)


def test_irn_preset_matches_reference(reference):
    values = reference("cam-methods/dense_crf")
    cam = values["cam"]
    for threshold in match_keys(values, r"irn_crf_th([\d.]+)"):
        posteriors, ids = refine_with_crf(values["img"], cam, np.arange(1, len(cam) + 1, dtype=np.uint16),
                                          Background("constant", (float(threshold),)), CrfConfig(preset="irn"))
        assert len(ids) == len(values["irn_keys"])
        labels = values[f"irn_crf_th{threshold}"]
        chosen = np.take_along_axis(posteriors, labels[None].astype(int), axis=0)[0]
        # In 8 bits the reference's label may tie with another; it is never beaten by more than rounding.
        assert int((posteriors.max(axis=0).astype(int) - chosen).max()) <= 1
        assert (posteriors.argmax(axis=0) == labels).mean() > 0.99


def test_deeplab_preset_matches_reference(reference):
    values = reference("cam-methods/dense_crf")
    ids = np.arange(len(values["prob_in"]), dtype=np.uint16)
    posteriors, same = refine_with_crf(values["img"], values["prob_in"], ids, None, CrfConfig(preset="deeplab"))
    np.testing.assert_array_equal(same, ids)
    np.testing.assert_allclose(posteriors / 255, values["deeplab_crf_out"], atol=ONE_STEP, rtol=0)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def test_only_irn_uses_labels_by_default():
    assert [name for name in CRF_PRESETS if should_use_labels(CrfConfig(preset=name))] == ["irn"]
    assert should_use_labels(CrfConfig(preset="psa", unary="labels"))
    assert not should_use_labels(CrfConfig(preset="irn", unary="scores"))


@pytest.mark.parametrize("preset", list(CRF_PRESETS))
def test_settings_override_preset_values(preset):
    defaults = CRF_PRESETS[preset]
    changed = resolve_crf_settings(CrfConfig(preset=preset, bilateral_sxy=31.0, gaussian_weight=0.0))
    assert (changed.bilateral_sxy, changed.gaussian_weight) == (31.0, 0.0)
    assert (changed.bilateral_srgb, changed.bilateral_weight, changed.gaussian_sxy, changed.iterations) == (
        defaults.bilateral_srgb, defaults.bilateral_weight, defaults.gaussian_sxy, defaults.iterations)


def test_scores_are_not_normalised(image):
    scores = np.random.default_rng(1).random((2, 20, 24)).astype(np.float32)
    posteriors, _ = refine_with_crf(image, scores, np.array([0, 3], np.uint16), None, CrfConfig(preset="psa"))
    expected = dense_crf(image, unary_from_scores(scores), CRF_PRESETS["psa"])
    np.testing.assert_array_equal(posteriors, np.round(expected * 255))


def test_image_without_classes_is_background(image):
    posteriors, ids = refine_with_crf(image, np.zeros((0, 20, 24), np.float32), np.zeros(0, np.uint16),
                                      Background("constant", (0.3,)), CrfConfig())
    assert ids.tolist() == [0]
    assert (posteriors == 255).all()

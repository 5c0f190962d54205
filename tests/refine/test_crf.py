"""`refine crf`'s route from maps to posteriors: presets, unaries, overrides."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stages.kernels.background import Background
from stages.kernels.dense_crf import PRESETS, dense_crf, unary_from_scores
from stages.refine.config import CrfConfig
from stages.refine.crf import kernels_of, refined, takes_labels

pytest.importorskip("pydensecrf")
ONE_STEP = 1 / 255 + 1e-4


def keys(values, pattern: str) -> list[str]:
    """Return what the group of `pattern` matches among the keys; at least one."""
    found = [match[1] for key in values if (match := re.fullmatch(pattern, key))]
    assert found
    return found


def test_psa_preset_with_each_power_gives_the_reference_values(reference):
    values = reference("cam-methods/dense_crf")
    cam = values["cam"]
    for power in keys(values, r"psa_alpha([\d.]+)_out"):
        posteriors, ids = refined(values["img"], cam, np.arange(1, len(cam) + 1, dtype=np.uint16),
                                  Background("power", (float(power),)), CrfConfig(preset="psa"))
        np.testing.assert_array_equal(ids, np.arange(len(cam) + 1))
        np.testing.assert_allclose(posteriors / 255, values[f"psa_alpha{power}_out"], atol=ONE_STEP, rtol=0)


def test_irn_preset_with_each_threshold_gives_the_reference_labels(reference):
    values = reference("cam-methods/dense_crf")
    cam = values["cam"]
    for threshold in keys(values, r"irn_crf_th([\d.]+)"):
        posteriors, ids = refined(values["img"], cam, np.arange(1, len(cam) + 1, dtype=np.uint16),
                                  Background("constant", (float(threshold),)), CrfConfig(preset="irn"))
        assert len(ids) == len(values["irn_keys"])
        labels = values[f"irn_crf_th{threshold}"]
        chosen = np.take_along_axis(posteriors, labels[None].astype(int), axis=0)[0]
        # In 8 bits the reference's label may tie with another; it is never beaten by more than rounding.
        assert int((posteriors.max(axis=0).astype(int) - chosen).max()) <= 1
        assert (posteriors.argmax(axis=0) == labels).mean() > 0.99


def test_deeplab_preset_on_rows_with_background_gives_the_reference_values(reference):
    values = reference("cam-methods/dense_crf")
    ids = np.arange(len(values["prob_in"]), dtype=np.uint16)
    posteriors, same = refined(values["img"], values["prob_in"], ids, None, CrfConfig(preset="deeplab"))
    np.testing.assert_array_equal(same, ids)
    np.testing.assert_allclose(posteriors / 255, values["deeplab_crf_out"], atol=ONE_STEP, rtol=0)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def test_only_irn_takes_labels_unless_told():
    assert [name for name in PRESETS if takes_labels(CrfConfig(preset=name))] == ["irn"]
    assert takes_labels(CrfConfig(preset="psa", unary="labels"))
    assert not takes_labels(CrfConfig(preset="irn", unary="scores"))


@pytest.mark.parametrize("preset", list(PRESETS))
def test_settings_override_the_preset_one_by_one(preset):
    usual, changed = PRESETS[preset], kernels_of(CrfConfig(preset=preset, bilateral_sxy=31.0, gaussian_weight=0.0))
    assert (changed.bilateral_sxy, changed.gaussian_weight) == (31.0, 0.0)
    assert (changed.bilateral_srgb, changed.bilateral_weight, changed.gaussian_sxy, changed.iterations) == (
        usual.bilateral_srgb, usual.bilateral_weight, usual.gaussian_sxy, usual.iterations)


def test_scores_go_in_as_they_are(image):
    rows = np.random.default_rng(1).random((2, 20, 24)).astype(np.float32)
    posteriors, _ = refined(image, rows, np.array([0, 3], np.uint16), None, CrfConfig(preset="psa"))
    expected = dense_crf(image, unary_from_scores(rows), PRESETS["psa"])
    np.testing.assert_array_equal(posteriors, np.round(expected * 255))


def test_an_image_without_classes_is_all_background(image):
    posteriors, ids = refined(image, np.zeros((0, 20, 24), np.float32), np.zeros(0, np.uint16),
                              Background("constant", (0.3,)), CrfConfig())
    assert ids.tolist() == [0]
    assert (posteriors == 255).all()

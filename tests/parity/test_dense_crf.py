"""Dense CRF against reference values of PSA, IRN, deeplab-pytorch and CLIP-ES."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from stages.kernels.dense_crf import PRESETS, dense_crf, unary_from_labels, unary_from_scores

pytest.importorskip("pydensecrf")


def found(values, pattern: str) -> list[str]:
    """Return what the group of `pattern` matches among the keys; at least one."""
    matches = [match.group(1) for key in values if (match := re.fullmatch(pattern, key))]
    assert matches, f"no key matches {pattern}"
    return matches


def test_psa_and_deeplab_posteriors(reference):
    values = reference("cam-methods/dense_crf")
    image = values["img"]
    for power in found(values, r"psa_alpha(\d+)_in"):
        got = dense_crf(image, unary_from_scores(values[f"psa_alpha{power}_in"]), PRESETS["psa"])
        np.testing.assert_allclose(got, values[f"psa_alpha{power}_out"], atol=1e-4, rtol=0)
    got = dense_crf(image, unary_from_scores(values["prob_in"]), PRESETS["deeplab"])
    np.testing.assert_allclose(got, values["deeplab_crf_out"], atol=1e-4, rtol=0)


def test_psa_background_is_a_power_of_the_rest(reference):
    values = reference("cam-methods/dense_crf")
    for power in found(values, r"psa_alpha(\d+)_in"):
        background = (1 - values["cam"].max(axis=0)) ** int(power)
        np.testing.assert_allclose(values[f"psa_alpha{power}_in"][0], background, atol=1e-6)


def test_irn_labels(reference):
    values = reference("cam-methods/dense_crf")
    for threshold in found(values, r"irn_labels_th([\d.]+)"):
        unary = unary_from_labels(values[f"irn_labels_th{threshold}"], len(values["irn_keys"]), 0.7)
        got = dense_crf(values["img"], unary, PRESETS["irn"]).argmax(axis=0)
        np.testing.assert_array_equal(got, values[f"irn_crf_th{threshold}"])


def test_clip_es_after_each_number_of_iterations(reference):
    values = reference("clip-es/unit_crf")
    unary = unary_from_scores(values["prob"])
    for iterations in found(values, r"q_iter(\d+)"):
        got = dense_crf(values["image"], unary, replace(PRESETS["clip-es"], iterations=int(iterations)))
        np.testing.assert_allclose(got, values[f"q_iter{iterations}"], atol=1e-4, rtol=0)

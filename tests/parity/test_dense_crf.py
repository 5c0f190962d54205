"""Dense CRF against reference values of PSA, IRN, deeplab-pytorch and CLIP-ES."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from stages.kernels.dense_crf import CRF_PRESETS, dense_crf, unary_from_labels, unary_from_scores

on_every_engine = pytest.mark.parametrize("engine", ["numba", "torch"])


def match_keys(values, pattern: str) -> list[str]:
    """Return the text of the group of `pattern` for every key that matches; at least one key must match."""
    matches = [match.group(1) for key in values if (match := re.fullmatch(pattern, key))]
    assert matches, f"no key matches {pattern}"
    return matches


@on_every_engine
def test_posteriors_of_psa_and_deeplab_match(reference, engine):
    values = reference("cam-methods/dense_crf")
    image = values["img"]
    for power in match_keys(values, r"psa_alpha(\d+)_in"):
        actual = dense_crf(image, unary_from_scores(values[f"psa_alpha{power}_in"]), CRF_PRESETS["psa"], engine)
        np.testing.assert_allclose(actual, values[f"psa_alpha{power}_out"], atol=1e-4, rtol=0)
    actual = dense_crf(image, unary_from_scores(values["prob_in"]), CRF_PRESETS["deeplab"], engine)
    np.testing.assert_allclose(actual, values["deeplab_crf_out"], atol=1e-4, rtol=0)


def test_psa_background_is_a_power_of_one_minus_the_maximum(reference):
    values = reference("cam-methods/dense_crf")
    for power in match_keys(values, r"psa_alpha(\d+)_in"):
        background = (1 - values["cam"].max(axis=0)) ** int(power)
        np.testing.assert_allclose(values[f"psa_alpha{power}_in"][0], background, atol=1e-6)


@on_every_engine
def test_labels_of_irn_match(reference, engine):
    values = reference("cam-methods/dense_crf")
    for threshold in match_keys(values, r"irn_labels_th([\d.]+)"):
        unary = unary_from_labels(values[f"irn_labels_th{threshold}"], len(values["irn_keys"]), 0.7)
        actual = dense_crf(values["img"], unary, CRF_PRESETS["irn"], engine).argmax(axis=0)
        np.testing.assert_array_equal(actual, values[f"irn_crf_th{threshold}"])


@on_every_engine
def test_posteriors_of_clip_es_match_after_each_number_of_iterations(reference, engine):
    values = reference("clip-es/unit_crf")
    unary = unary_from_scores(values["prob"])
    for iterations in match_keys(values, r"q_iter(\d+)"):
        settings = replace(CRF_PRESETS["clip-es"], iterations=int(iterations))
        actual = dense_crf(values["image"], unary, settings, engine)
        np.testing.assert_allclose(actual, values[f"q_iter{iterations}"], atol=1e-4, rtol=0)

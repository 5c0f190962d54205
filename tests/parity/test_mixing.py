"""FMix masks and the losses on mixed samples against reference values."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.kernels.fmix import SPECTRA, build_brightest_mask, build_grey_image, compute_frequencies
from stages.train_cls.regularisers import compute_map_spread, concentration, self_entropy


def list_sizes(values) -> list[tuple[str, tuple[int, int]]]:
    """Return (name, (height, width)) of the sizes whose noise is among the values."""
    matches = [match for key in values if (match := re.fullmatch(r"(\d+)x(\d+)__gauss", key))]
    assert matches
    return [(match[0].removesuffix("__gauss"), (int(match[1]), int(match[2]))) for match in matches]


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_grey_images_match(reference, spectrum):
    values = reference("cam-methods/fmix")
    for name, size in list_sizes(values):
        expected = np.maximum(values[f"{name}__freqs"], 1 / max(size))
        np.testing.assert_allclose(compute_frequencies(size), expected, rtol=1e-12)
        actual = build_grey_image(values[f"{name}__gauss"], size, decay=3, spectrum=spectrum)
        np.testing.assert_allclose(actual, values[f"{name}__grey_{spectrum}"][0], atol=1e-10)


def test_masks_match(reference):
    values = reference("cam-methods/fmix")
    num_masks = 0
    for key in values:
        match = re.fullmatch(r"(\d+x\d+)__bin_(paper|released)_lam([\d.]+)_soft([\d.]+)_(ceil|floor)", key)
        if match and f"{match[1]}__grey_{match[2]}" in values:
            grey = values[f"{match[1]}__grey_{match[2]}"][0]
            actual = build_brightest_mask(grey, float(match[3]), round_up=match[5] == "ceil", softness=float(match[4]))
            np.testing.assert_allclose(actual, values[key][0], atol=1e-6, err_msg=key)
            num_masks += 1
    assert num_masks


def test_entropies_match(reference):
    values = reference("cam-methods/losses")
    logits = torch.from_numpy(values["ent_logits"]).double()
    np.testing.assert_allclose(self_entropy(logits, "binary"), values["ent_mva_binary_sigmoid_mean"], rtol=1e-5)
    np.testing.assert_allclose(self_entropy(logits, "sum"), values["ent_seed_sigmoid_sum_per_sample"].mean(), rtol=1e-5)


def test_concentration_losses_match(reference):
    values = reference("cam-methods/losses")
    maps, labels = torch.from_numpy(values["mva_cam"]).double(), torch.from_numpy(values["mva_labels"])
    np.testing.assert_allclose(compute_map_spread(maps, "scops"), values["mva_per_map_variance"], rtol=1e-5)
    np.testing.assert_allclose(concentration(maps, labels, "scops"), values["mva_concentration"], rtol=1e-5)
    np.testing.assert_allclose(compute_map_spread(maps, "paper"), values["seed_relu_cam_pixel"], rtol=1e-5)


def test_mixing_losses_equals_mixing_labels(reference):
    values = reference("cam-methods/losses")
    logits, first = torch.from_numpy(values["ent_logits"]).double(), torch.from_numpy(values["mix_targets"]).double()
    second, ratio = first[torch.from_numpy(values["mix_perm"])], float(values["mix_lam"])
    mixed_loss = ratio * F.multilabel_soft_margin_loss(logits, first) + (1 - ratio) * F.multilabel_soft_margin_loss(
        logits, second)
    np.testing.assert_allclose(mixed_loss, values["mix_criterion"], rtol=1e-5)
    np.testing.assert_allclose(F.multilabel_soft_margin_loss(logits, ratio * first + (1 - ratio) * second), mixed_loss)

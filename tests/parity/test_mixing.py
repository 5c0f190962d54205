"""FMix masks and the losses on mixed samples against reference values."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.kernels.fmix_mask import SPECTRA, brightest, frequencies, grey_image
from stages.train_cls.regularisers import concentration, self_entropy, spread


def sizes(values) -> list[tuple[str, tuple[int, int]]]:
    """Return the sizes whose noise is among the values."""
    found = [match for key in values if (match := re.fullmatch(r"(\d+)x(\d+)__gauss", key))]
    assert found
    return [(match[0].removesuffix("__gauss"), (int(match[1]), int(match[2]))) for match in found]


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_grey_images(reference, spectrum):
    values = reference("cam-methods/fmix")
    for name, size in sizes(values):
        expected = np.maximum(values[f"{name}__freqs"], 1 / max(size))
        np.testing.assert_allclose(frequencies(size), expected, rtol=1e-12)
        found = grey_image(values[f"{name}__gauss"], size, decay=3, spectrum=spectrum)
        np.testing.assert_allclose(found, values[f"{name}__grey_{spectrum}"][0], atol=1e-10)


def test_masks(reference):
    values = reference("cam-methods/fmix")
    tried = 0
    for key in values:
        match = re.fullmatch(r"(\d+x\d+)__bin_(paper|released)_lam([\d.]+)_soft([\d.]+)_(ceil|floor)", key)
        if match and f"{match[1]}__grey_{match[2]}" in values:
            grey = values[f"{match[1]}__grey_{match[2]}"][0]
            found = brightest(grey, float(match[3]), up=match[5] == "ceil", softness=float(match[4]))
            np.testing.assert_allclose(found, values[key][0], atol=1e-6, err_msg=key)
            tried += 1
    assert tried


def test_entropies(reference):
    values = reference("cam-methods/losses")
    logits = torch.from_numpy(values["ent_logits"]).double()
    np.testing.assert_allclose(self_entropy(logits, "binary"), values["ent_mva_binary_sigmoid_mean"], rtol=1e-5)
    np.testing.assert_allclose(self_entropy(logits, "sum"), values["ent_seed_sigmoid_sum_per_sample"].mean(), rtol=1e-5)


def test_concentrations(reference):
    values = reference("cam-methods/losses")
    maps, labels = torch.from_numpy(values["mva_cam"]).double(), torch.from_numpy(values["mva_labels"])
    np.testing.assert_allclose(spread(maps, "scops"), values["mva_per_map_variance"], rtol=1e-5)
    np.testing.assert_allclose(concentration(maps, labels, "scops"), values["mva_concentration"], rtol=1e-5)
    np.testing.assert_allclose(spread(maps, "paper"), values["seed_relu_cam_pixel"], rtol=1e-5)


def test_two_label_sets_are_one_set_of_soft_labels(reference):
    values = reference("cam-methods/losses")
    logits, first = torch.from_numpy(values["ent_logits"]).double(), torch.from_numpy(values["mix_targets"]).double()
    second, share = first[torch.from_numpy(values["mix_perm"])], float(values["mix_lam"])
    two = share * F.multilabel_soft_margin_loss(logits, first) + (1 - share) * F.multilabel_soft_margin_loss(
        logits, second)
    np.testing.assert_allclose(two, values["mix_criterion"], rtol=1e-5)
    np.testing.assert_allclose(F.multilabel_soft_margin_loss(logits, share * first + (1 - share) * second), two)

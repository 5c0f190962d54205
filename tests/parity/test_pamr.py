"""Pixel-adaptive refinement against values of Araslanov and Roth's module with the settings of TCL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.pamr import ColourAffinity, compute_affinity, pamr

# Name of the result: dilations and iterations (None: those stored with the values).
CASES = {"out": (None, None), "out_float64": (None, None), "out_iter1_dil1": ((1,), 1),
         "out_iter3_dil1_2_4": ((1, 2, 4), 3)}


@pytest.fixture
def values(reference) -> dict[str, np.ndarray]:
    return dict(reference("image-text/pamr"))


def get_tensor(values: dict[str, np.ndarray], name: str) -> Tensor:
    return torch.from_numpy(values[name])[0].float()


@pytest.mark.parametrize("name", CASES)
def test_refined_masks_match(values, name):
    if name not in values:
        pytest.skip("this array is not among the copies in this repository")
    dilations, iterations = CASES[name]
    actual = pamr(get_tensor(values, "image"), get_tensor(values, "mask"), dilations or values["dilations"].tolist(),
                 iterations or int(values["iters"]))
    np.testing.assert_allclose(actual, values[name][0], atol=1e-5, rtol=0)


def test_affinity_and_a_mask_of_lower_resolution_match(values):
    if "affinity_48" not in values:
        pytest.skip("this array is not among the copies in this repository")
    dilations = values["dilations"].tolist()
    affinity = compute_affinity(get_tensor(values, "image"), ColourAffinity(tuple(dilations), 0.1))
    np.testing.assert_allclose(affinity, values["affinity_48"][0], atol=1e-5, rtol=0)
    mask = F.interpolate(get_tensor(values, "mask_low")[None], values["out_low"].shape[-2:], mode="bilinear",
                         align_corners=True)[0]
    actual = pamr(get_tensor(values, "image"), mask, dilations, int(values["iters"]))
    np.testing.assert_allclose(actual, values["out_low"][0], atol=1e-5, rtol=0)

"""Pixel-adaptive refinement against the values of Araslanov and Roth's module, in the settings that TCL has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.pamr import affinity, pamr

# name of the result: dilations (none: those on record), iterations
CASES = {"out": (None, None), "out_float64": (None, None), "out_iter1_dil1": ((1,), 1),
         "out_iter3_dil1_2_4": ((1, 2, 4), 3)}


@pytest.fixture
def values(reference) -> dict[str, np.ndarray]:
    return dict(reference("image-text/pamr"))


def of(values: dict[str, np.ndarray], name: str) -> Tensor:
    return torch.from_numpy(values[name])[0].float()


@pytest.mark.parametrize("name", CASES)
def test_refined_masks(values, name):
    if name not in values:
        pytest.skip("not among the copies")
    dilations, iterations = CASES[name]
    found = pamr(of(values, "image"), of(values, "mask"), dilations or values["dilations"].tolist(),
                 iterations or int(values["iters"]))
    np.testing.assert_allclose(found, values[name][0], atol=1e-5, rtol=0)


def test_affinities_and_a_mask_of_another_size(values):
    if "affinity_48" not in values:
        pytest.skip("not among the copies")
    dilations = values["dilations"].tolist()
    np.testing.assert_allclose(affinity(of(values, "image"), dilations), values["affinity_48"][0], atol=1e-5, rtol=0)
    mask = F.interpolate(of(values, "mask_low")[None], values["out_low"].shape[-2:], mode="bilinear",
                         align_corners=True)[0]
    found = pamr(of(values, "image"), mask, dilations, int(values["iters"]))
    np.testing.assert_allclose(found, values["out_low"][0], atol=1e-5, rtol=0)

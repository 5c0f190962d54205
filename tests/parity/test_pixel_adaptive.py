"""Pixel-adaptive refinement (PAR) against values of the module that ExCEL and WeCLIP released."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.kernels.pamr import ColourAffinity, compute_affinity
from stages.kernels.pixel_adaptive import apply_par, compute_position_weights

# Name of the result: the image, dilations and iterations (None: those stored with the values), and the tolerance.
CASES = {"out": ("image", None, None, 2e-5), "out_low": ("image_low", None, None, 5e-5),
         "out_iter1": ("image", None, 1, 2e-5), "out_iter3_dil1_3": ("image", (1, 3), 3, 2e-5)}


def get_tensor(values: dict[str, np.ndarray], name: str) -> Tensor:
    return torch.from_numpy(values[name])[None].float()


@pytest.mark.parametrize("name", CASES)
def test_refined_masks_of_excel_match(reference, name):
    values = reference("beyond/excel/unit_par")
    image, dilations, iterations, tolerance = CASES[name]
    actual = apply_par(get_tensor(values, image), get_tensor(values, "mask"),
                       dilations=dilations or values["dilations"].tolist(),
                       iterations=iterations or int(values["iters"]))[0].numpy()
    np.testing.assert_allclose(actual, values[name], atol=tolerance * values["mask"].max(), rtol=0)
    if name == "out" and "label" in values:
        assert np.mean(actual.argmax(0) != values["label"]) <= 1e-3


def test_weights_of_excel_match(reference):
    values = reference("beyond/excel/unit_par")
    dilations = tuple(values["dilations"].tolist())
    np.testing.assert_allclose(compute_position_weights(dilations, 0.3, 1), values["pos_weight"], atol=1e-6)
    affinity = ColourAffinity(dilations, 0.3, is_squared=True, includes_pixel=False,
                              position_weights=compute_position_weights(dilations, 0.3, 0.01))
    weights = compute_affinity(get_tensor(values, "image")[0], affinity)
    np.testing.assert_allclose(weights[:, ::6, ::8], values["affinity_sub"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "masks", "iterations"), [
    ("par_out_1", "par_masks", 1), ("par_out_20", "par_masks", 20), ("par_out_othersize_5", "par_masks_othersize", 5)])
def test_refined_masks_of_weclip_match(reference, name, masks, iterations):
    values = reference("beyond/weclip/unit")
    if name not in values:
        pytest.skip("this array is not among the copies in this repository")
    mean, std = np.float32((123.675, 116.28, 103.53)), np.float32((58.395, 57.12, 57.375))
    image = torch.from_numpy(((values["par_image"] - mean) / std).transpose(2, 0, 1))[None]
    actual = apply_par(image, torch.from_numpy(values[masks]), iterations=iterations)
    np.testing.assert_allclose(actual, values[name], atol=2e-4, rtol=0)

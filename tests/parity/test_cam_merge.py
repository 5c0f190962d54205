"""Merging of class activation maps against reference values of IRN."""

from __future__ import annotations

import re

import numpy as np
import torch

from stages.kernels.cam_merge import merge_full_size, merge_scales
from stages.kernels.resample import upsample


def select_present_maps(values) -> list[torch.Tensor]:
    names = sorted(key for key in values if re.fullmatch(r"out_scale\d+", key))
    assert names
    return [torch.from_numpy(np.asarray(values[name]))[values["keys"]] for name in names]


def test_scales_merge_on_a_grid_of_stride_4(reference):
    values = reference("cam-methods/irn_make_cam")
    maps, size = select_present_maps(values), tuple(values["size"].tolist())
    # "cells" stretches every map over the image, so the values of the scales do not matter.
    cam, _ = merge_scales(maps, size, scales=[1.0] * len(maps), alignment="cells")
    np.testing.assert_allclose(cam, values["cam_stride4"], rtol=1e-5, atol=1e-6)


def test_scales_merge_at_full_size(reference):
    values = reference("cam-methods/irn_make_cam")
    full = merge_full_size(select_present_maps(values), tuple(values["size"].tolist()))
    np.testing.assert_allclose(full, values["cam_highres"], rtol=1e-5, atol=1e-6)


def test_upsampling_with_covers_is_closest_to_full_size(reference):
    values = reference("cam-methods/irn_make_cam")
    maps, size = select_present_maps(values), tuple(values["size"].tolist())
    cam, covers = merge_scales(maps, size, scales=[1.0] * len(maps), alignment="cells")
    upsampled = upsample(cam, covers, size).numpy()
    upsampled_from_grid = upsample(cam, (4 * cam.shape[1], 4 * cam.shape[2]), size).numpy()
    error, error_from_grid = (np.abs(maps - values["cam_highres"]).mean() for maps in (upsampled, upsampled_from_grid))
    assert error < 0.05 and error <= error_from_grid

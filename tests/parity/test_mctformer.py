"""The maps and logits of MCTformer against reference values: attention and patch maps in, everything else out.

Keys are CASE_VERSION_NAME, with the cases sq, rect, ... and the versions v2 and plus. The maps of V1 equal the
attention of V2 without patch classifier (transcam).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.kernels.class_attention import (
    average_class_attention,
    compute_patch_affinity,
    fuse_class_maps,
    rank_pool,
    refine_maps,
    rescale_to_unit_range,
)

NAMES = {"fused": "fused", "patchcam": "patch", "transcam": "attention", "mct": "attention"}


@pytest.fixture
def values(reference):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in
            reference("cam-methods/mctformer_fusion").items()}


def list_cases(values) -> list[str]:
    cases = sorted(name.removesuffix("_attn_headmean") for name in values if name.endswith("_attn_headmean"))
    assert cases
    return cases


def iterate_maps(values, case: str) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Yield (key, map before refinement, refined map, attention of all layers) for every map of a case."""
    attention = values[f"{case}_attn_headmean"]
    grid = tuple(int(side) for side in values[f"{case}_hw"])
    for key in values:
        match = re.fullmatch(case + r"_(v2|plus)_([a-z]+)_n(\d+)_cam", key)
        if match:
            version, name, layers = match[1], match[2], int(match[3])
            patch = values[f"{case}_{version}_patch_logit_map"]
            class_attention = average_class_attention(attention[-layers:], patch.shape[1], grid)
            maps = fuse_class_maps(version, NAMES[name], class_attention, patch, layers)
            yield key, maps, refine_maps(maps, compute_patch_affinity(attention, grid)), attention


def test_maps_match_before_and_after_refinement(values):
    num_maps = 0
    for case in list_cases(values):
        for key, actual, refined, _ in iterate_maps(values, case):
            torch.testing.assert_close(actual, values[key], rtol=1e-5, atol=6e-6, msg=key)
            expected = values[key.removesuffix("_cam") + "_refined"]
            torch.testing.assert_close(refined, expected, rtol=1e-5, atol=1e-6, msg=key)
            if "transcam" in key:
                layers = int(key.split("_n")[1].split("_")[0])
                grid, attention = expected.shape[-2:], values[f"{case}_attn_headmean"][-layers:]
                class_attention = average_class_attention(attention, expected.shape[1], grid)
                v1_maps = fuse_class_maps("v1", "fused", class_attention, None, layers)
                torch.testing.assert_close(v1_maps, values[key], rtol=1e-5, atol=1e-7, msg=key)
            num_maps += 1
    assert num_maps


def test_logits_match(values):
    for case in list_cases(values):
        tokens = values[f"{case}_x_cls"].mean(-1)
        for version, pool in (("v2", lambda maps: maps.mean((2, 3))), ("plus", rank_pool)):
            patches = pool(values[f"{case}_{version}_patch_logit_map"])
            close = {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(tokens, values[f"{case}_{version}_train_cls_logits"], **close)
            torch.testing.assert_close(patches, values[f"{case}_{version}_train_patch_logits"], **close)
            logits = (tokens + patches) / 2 if version == "plus" else tokens
            torch.testing.assert_close(logits, values[f"{case}_{version}_return_logits"], **close)


def test_rescaling_to_unit_range_matches(values):
    actual = rescale_to_unit_range(values["final_norm_in"])
    torch.testing.assert_close(actual, values["final_norm_out"], rtol=1e-5, atol=1e-6)

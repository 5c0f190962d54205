"""The maps and logits of MCTformer against reference values: attention and patch maps in, everything else out.

Keys are CASE_VERSION_what: sq, rect, ...; v2 or plus. What V1 shows is V2's attention alone (transcam).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.kernels.class_attention import class_to_patch, fuse, patch_affinity, rank_pool, refine_maps, unit_range

NAMES = {"fused": "fused", "patchcam": "patch", "transcam": "attention", "mct": "attention"}


@pytest.fixture
def values(reference):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in
            reference("cam-methods/mctformer_fusion").items()}


def cases(values) -> list[str]:
    found = sorted(name.removesuffix("_attn_headmean") for name in values if name.endswith("_attn_headmean"))
    assert found
    return found


def maps_of(values, case: str) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Yield (key, map before refinement, refined map, attention of all layers) for every map of a case."""
    attention = values[f"{case}_attn_headmean"]
    grid = tuple(int(side) for side in values[f"{case}_hw"])
    for key in values:
        match = re.fullmatch(case + r"_(v2|plus)_([a-z]+)_n(\d+)_cam", key)
        if match:
            version, name, layers = match[1], match[2], int(match[3])
            patch = values[f"{case}_{version}_patch_logit_map"]
            attended = class_to_patch(attention[-layers:], patch.shape[1], grid)
            found = fuse(version, NAMES[name], attended, patch, layers)
            yield key, found, refine_maps(found, patch_affinity(attention, grid)), attention


def test_every_map_before_and_after_the_affinity(values):
    tried = 0
    for case in cases(values):
        for key, found, refined, _ in maps_of(values, case):
            torch.testing.assert_close(found, values[key], rtol=1e-5, atol=6e-6, msg=key)
            wanted = values[key.removesuffix("_cam") + "_refined"]
            torch.testing.assert_close(refined, wanted, rtol=1e-5, atol=1e-6, msg=key)
            if "transcam" in key:
                layers = int(key.split("_n")[1].split("_")[0])
                grid, attention = wanted.shape[-2:], values[f"{case}_attn_headmean"][-layers:]
                alone = fuse("v1", "fused", class_to_patch(attention, wanted.shape[1], grid), None, layers)
                torch.testing.assert_close(alone, values[key], rtol=1e-5, atol=1e-7, msg=key)
            tried += 1
    assert tried


def test_logits(values):
    for case in cases(values):
        tokens = values[f"{case}_x_cls"].mean(-1)
        for version, pool in (("v2", lambda maps: maps.mean((2, 3))), ("plus", rank_pool)):
            patches = pool(values[f"{case}_{version}_patch_logit_map"])
            close = {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(tokens, values[f"{case}_{version}_train_cls_logits"], **close)
            torch.testing.assert_close(patches, values[f"{case}_{version}_train_patch_logits"], **close)
            told = (tokens + patches) / 2 if version == "plus" else tokens
            torch.testing.assert_close(told, values[f"{case}_{version}_return_logits"], **close)


def test_the_last_stretch(values):
    torch.testing.assert_close(unit_range(values["final_norm_in"]), values["final_norm_out"], rtol=1e-5, atol=1e-6)

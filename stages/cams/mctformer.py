"""Class attention of MCTformer, fused with its patch classifier and refined by the affinity of the patches.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (CVPR 2022), section 3.2 and
3.3, and "MCTformer+" (TPAMI 2024); the mathematics is in `kernels.class_attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.class_attention import class_to_patch, fuse, patch_affinity, refine_maps, unit_range
from stages.kernels.finite import infinite_to_nan
from stages.nets.precision import at_least_fp32

SCALES = {"v1": (1.0,), "v2": (1.0,), "plus": (1.0, 0.75, 1.25)}


@torch.inference_mode()
def batch_maps(net: Any, views: Sequence[Tensor], config: Any,
               chosen: Callable[[int, np.ndarray], np.ndarray]) -> list[tuple[np.ndarray, Tensor, np.ndarray]]:
    """Return (class_ids (K,), maps (K, h, w) in [0, 1], scores (C,)) of B images, on the grid of the finest view.

    `views` holds one tensor (B, 3, H_s, W_s) per scale. Their maps and, with `config.flip`, those of the mirror images
    are refined, resized, flipped back and summed; each is then stretched from 0 to 1. Scores are the sigmoid of the
    logits' mean. `chosen(position, scores)` gives an image's class ids.
    """
    maps, logits = [], []
    for view in views:
        for mirrored in (False, True) if config.flip else (False,):
            found, scored = view_maps(net, view.flip(-1) if mirrored else view, config)
            maps.append(found.flip(-1) if mirrored else found)
            logits.append(scored)
    total, scores = unit_range(summed(maps)), torch.stack(logits).mean(0).sigmoid().cpu().numpy()
    return [(ids, total[place, torch.as_tensor(ids.astype(np.int64) - 1, device=total.device)], scores[place])
            for place in range(len(scores)) for ids in [chosen(place, scores[place])]]


def view_maps(net: Any, images: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Return the maps (B, C, h, w) and logits (B, C) of one view, float32 at least."""
    # Sides are multiples of a patch's but under `as_released`, whose maps lack a rest at the right and the bottom.
    height, width = (side - side % net.stride for side in images.shape[-2:])
    seen = net.attended(images[..., :height, :width], None if config.affinity else config.layers)
    attention = class_to_patch(seen.attention[-config.layers:], net.n_outputs, seen.grid)
    patch = None if seen.patch is None else infinite_to_nan(at_least_fp32(seen.patch))
    maps = fuse(net.version, config.map, attention, patch, config.layers)
    if config.affinity:
        maps = refine_maps(maps, patch_affinity(seen.attention, seen.grid))
    return maps, infinite_to_nan(at_least_fp32(seen.logits))


def summed(maps: Sequence[Tensor]) -> Tensor:
    """Return the sum of maps (B, C, h, w) of several scales, resized bilinearly to the largest grid of them."""
    grid = max((one.shape[-2:] for one in maps), key=lambda size: size[0] * size[1])
    return torch.stack([one if one.shape[-2:] == grid else F.interpolate(one, grid, mode="bilinear",
                                                                         align_corners=False) for one in maps]).sum(0)

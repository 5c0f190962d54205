"""Class attention of MCTformer, fused with its patch classifier and refined by the affinity of the patches.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (CVPR 2022), section 3.2 and
3.3, and "MCTformer+" (TPAMI 2024). The formulas are in `kernels.class_attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.class_attention import (
    average_class_attention,
    compute_patch_affinity,
    fuse_class_maps,
    refine_maps,
    rescale_to_unit_range,
)
from stages.kernels.finite import infinite_to_nan
from stages.nets.precision import promote_to_fp32

DEFAULT_SCALES = {"v1": (1.0,), "v2": (1.0,), "plus": (1.0, 0.75, 1.25)}


@torch.inference_mode()
def compute_cams(net: Any, views: Sequence[Tensor], config: Any,
                 choose_classes: Callable[[int, np.ndarray], np.ndarray],
                 ) -> list[tuple[np.ndarray, Tensor, np.ndarray]]:
    """Compute (class_ids (K,), maps (K, h, w) in [0, 1], scores (C,)) of B images, on the grid of the finest view.

    `views` has one tensor (B, 3, H_s, W_s) per scale. Their maps and, with `config.flip`, those of the mirrored images
    are refined, resized, flipped back and summed; each map is then rescaled from 0 to 1. Scores are the sigmoid of the
    mean logits. `choose_classes(position, scores)` returns an image's class ids.
    """
    maps, logits = [], []
    for view in views:
        for is_mirrored in (False, True) if config.flip else (False,):
            view_maps, view_logits = compute_view_maps(net, view.flip(-1) if is_mirrored else view, config)
            maps.append(view_maps.flip(-1) if is_mirrored else view_maps)
            logits.append(view_logits)
    total, scores = rescale_to_unit_range(sum_maps(maps)), torch.stack(logits).mean(0).sigmoid().cpu().numpy()
    cams = []
    for position, image_scores in enumerate(scores):
        class_ids = choose_classes(position, image_scores)
        channels = torch.as_tensor(class_ids.astype(np.int64) - 1, device=total.device)
        cams.append((class_ids, total[position, channels], image_scores))
    return cams


def compute_view_maps(net: Any, images: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Return the maps (B, C, h, w) and logits (B, C) of one view, in float32 or float64."""
    # Sides are multiples of the patch size, except with `as_released`, which drops incomplete patches at the right and
    # at the bottom.
    height, width = (side - side % net.stride for side in images.shape[-2:])
    outputs = net.forward_with_attention(images[..., :height, :width], None if config.affinity else config.layers)
    attention = average_class_attention(outputs.attention[-config.layers:], net.n_outputs, outputs.grid)
    patch = None if outputs.patch is None else infinite_to_nan(promote_to_fp32(outputs.patch))
    maps = fuse_class_maps(net.version, config.map, attention, patch, config.layers)
    if config.affinity:
        maps = refine_maps(maps, compute_patch_affinity(outputs.attention, outputs.grid))
    return maps, infinite_to_nan(promote_to_fp32(outputs.logits))


def sum_maps(maps: Sequence[Tensor]) -> Tensor:
    """Sum maps (B, C, h, w) of several scales, resized bilinearly to the largest grid among them."""
    grid = max((scale_maps.shape[-2:] for scale_maps in maps), key=lambda size: size[0] * size[1])
    resized = [scale_maps if scale_maps.shape[-2:] == grid
               else F.interpolate(scale_maps, grid, mode="bilinear", align_corners=False) for scale_maps in maps]
    return torch.stack(resized).sum(0)

"""Class activation maps of a trained classifier, over several scales and the mirrored image.

Ahn, Cho and Kwak (IRN, CVPR 2019), section 3.1 and its released settings: scales .5, 1, 1.5, 2, each with its
mirror image, summed after ReLU, divided by each class's maximum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.kernels.cam_merge import merge_scales


@torch.inference_mode()
def class_maps(net: torch.nn.Module, views: Sequence[Tensor], *, flip: bool) -> tuple[list[Tensor], Tensor]:
    """Return the maps of a batch and its scores.

    `views` holds one tensor (B, 3, H_s, W_s) per scale. The maps are, per scale and (with `flip`) mirror image,
    (B, C, h_s, w_s) float32 after ReLU and flipped back; scores (B, C) are the sigmoid of the logits' mean.
    """
    maps, logits = [], []
    for view in views:
        for mirrored in (False, True) if flip else (False,):
            raw = net.maps(view.flip(-1) if mirrored else view).float()
            logits.append(raw.mean(dim=(-2, -1)))
            maps.append((raw.flip(-1) if mirrored else raw).relu())
    return maps, torch.stack(logits).mean(dim=0).sigmoid()


def merged(maps: Sequence[Tensor], position: int, class_ids: np.ndarray, size: tuple[int, int], *,
           scales: Sequence[float], flip: bool, grid_stride: int, stride: int,
           alignment: str) -> tuple[np.ndarray, tuple[int, int]]:
    """Return (cam (K, h, w) float16 in [0, 1], covers) of one image of the batch, for `class_ids` (K,) from 1.

    `maps` are those of `class_maps`; each class is divided by its maximum.
    """
    chosen = torch.as_tensor(class_ids.astype(np.int64) - 1, device=maps[0].device)
    sides = (False, True) if flip else (False,)
    cam, covers = merge_scales(
        [one[position].index_select(0, chosen) for one in maps], size, grid_stride=grid_stride, stride=stride,
        alignment=alignment, scales=[scale for scale in scales for _ in sides],
        mirrored=[side for _ in scales for side in sides])
    return cam.cpu().numpy().astype(np.float16), covers

"""Class activation maps of a trained classifier, over several scales and the mirrored image.

Ahn, Cho and Kwak (IRN, CVPR 2019), section 3.1 and its released settings: scales .5, 1, 1.5, 2, each with its
mirror image, summed after ReLU, divided by each class's maximum.

Of a net that also learnt sub-categories, a class can be the largest of the maps of its sub-categories instead (Chang et
al., "Weakly-Supervised Semantic Segmentation via Sub-Category Exploration", CVPR 2020, released code). Its authors
found that far worse on VOC than the maps of the classes (0.367 against 0.503 mIoU): it is there to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.kernels.cam_merge import merge_scales
from stages.kernels.finite import infinite_to_nan

CLASSES, SUBCATEGORIES = HEADS = ("classes", "subcategories")


@torch.inference_mode()
def class_maps(net: torch.nn.Module, views: Sequence[Tensor], *, flip: bool,
               head: str = CLASSES) -> tuple[list[Tensor], Tensor]:
    """Return the maps of a batch and its scores.

    `views` holds one tensor (B, 3, H_s, W_s) per scale. The maps are, per scale and (with `flip`) mirror image,
    (B, C, h_s, w_s) float32 after ReLU and flipped back, or with `head` "subcategories" those of all sub-categories
    in turn, (B, S, h_s, w_s); scores (B, C) are the sigmoid of the mean of the classes' logits.
    """
    maps, logits = [], []
    for view in views:
        for mirrored in (False, True) if flip else (False,):
            features = net.backbone(view.flip(-1) if mirrored else view)
            raw = infinite_to_nan(net.classifier(features).float())
            logits.append(raw.mean(dim=(-2, -1)))
            raw = infinite_to_nan(net.subcategories(features).float()) if head == SUBCATEGORIES else raw
            maps.append((raw.flip(-1) if mirrored else raw).relu())
    return maps, torch.stack(logits).mean(dim=0).sigmoid()


def merged(maps: Sequence[Tensor], position: int, class_ids: np.ndarray, size: tuple[int, int], *,
           scales: Sequence[float], flip: bool, grid_stride: int, stride: int,
           alignment: str, first_centre: float = 0.0,
           n_subcategories: Sequence[int] | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Return (cam (K, h, w) float16 in [0, 1], covers) of one image of the batch, for `class_ids` (K,) from 1.

    `maps` are those of `class_maps`; each class is divided by its maximum. `n_subcategories` (C,) where the maps are
    those of sub-categories.
    """
    classes = class_ids.astype(np.int64) - 1
    places, members = (classes, None) if n_subcategories is None else _places(classes, n_subcategories)
    chosen = torch.as_tensor(places, device=maps[0].device)
    sides = (False, True) if flip else (False,)
    cam, covers = merge_scales(
        [one[position].index_select(0, chosen) for one in maps], size, grid_stride=grid_stride, stride=stride,
        alignment=alignment, first_centre=first_centre, scales=[scale for scale in scales for _ in sides],
        mirrored=[side for _ in scales for side in sides], members=members)
    return cam.cpu().numpy().astype(np.float16), covers


def _places(classes: np.ndarray, n_subcategories: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Return the places of the sub-categories of `classes` (K,) among those of all, and how many each has."""
    ends = np.cumsum(n_subcategories)
    members = [int(n_subcategories[one]) for one in classes]
    ranges = [np.arange(ends[one] - count, ends[one]) for one, count in zip(classes, members, strict=True)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *ranges]), members

"""Class activation maps of a trained classifier, over several scales and the mirrored image.

Ahn, Cho and Kwak (IRN, CVPR 2019), section 3.1 and its released settings: scales .5, 1, 1.5, 2, each with its
mirrored image, summed after ReLU, divided by each class's maximum.

If the network was also trained on sub-categories, a class can be the maximum of the maps of its sub-categories instead
(Chang et al., "Weakly-Supervised Semantic Segmentation via Sub-Category Exploration", CVPR 2020, released code). The
authors found these far worse on VOC than the maps of the classes (0.367 against 0.503 mIoU): they are for inspection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from stages.kernels.cam_merge import merge_scales
from stages.kernels.finite import infinite_to_nan

CLASSES, SUBCATEGORIES = HEADS = ("classes", "subcategories")


@torch.inference_mode()
def compute_class_maps(net: torch.nn.Module, views: Iterable[Tensor], *, flip: bool,
                       head: str = CLASSES) -> tuple[list[Tensor], Tensor]:
    """Compute the maps of a batch for every scale, and its scores.

    `views` has one tensor (B, 3, H_s, W_s) per scale. The maps are, per scale and (with `flip`) mirrored image,
    (B, C, h_s, w_s) float32 after ReLU and flipped back, or with `head` "subcategories" the maps of all sub-categories
    in order, (B, S, h_s, w_s). The scores (B, C) are the sigmoid of the mean of the classes' logits.
    """
    maps, logits = [], []
    for view in views:
        for is_mirrored in (False, True) if flip else (False,):
            features = net.backbone(view.flip(-1) if is_mirrored else view)
            raw = infinite_to_nan(net.classifier(features).float())
            logits.append(raw.mean(dim=(-2, -1)))
            raw = infinite_to_nan(net.subcategories(features).float()) if head == SUBCATEGORIES else raw
            maps.append((raw.flip(-1) if is_mirrored else raw).relu())
    return maps, torch.stack(logits).mean(dim=0).sigmoid()


def merge_class_maps(maps: Sequence[Tensor], position: int, class_ids: np.ndarray, size: tuple[int, int], *,
                     scales: Sequence[float], flip: bool, grid_stride: int, stride: int,
                     alignment: str, first_cell_centre: float = 0.0,
                     n_subcategories: Sequence[int] | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Merge the maps of one image of the batch. Return (cam (K, h, w) float16 in [0, 1], covers).

    `maps` come from `compute_class_maps`, `class_ids` (K,) count from 1; each class is divided by its maximum.
    `n_subcategories` (C,) is given if the maps are those of sub-categories.
    """
    classes = class_ids.astype(np.int64) - 1
    if n_subcategories is None:
        channels, maps_per_class = classes, None
    else:
        channels, maps_per_class = _list_subcategory_channels(classes, n_subcategories)
    channel_index = torch.as_tensor(channels, device=maps[0].device)
    sides = (False, True) if flip else (False,)
    cam, covers = merge_scales(
        [scale_maps[position].index_select(0, channel_index) for scale_maps in maps], size, grid_stride=grid_stride,
        stride=stride, alignment=alignment, first_cell_centre=first_cell_centre,
        scales=[scale for scale in scales for _ in sides], mirrored=[side for _ in scales for side in sides],
        maps_per_class=maps_per_class)
    return cam.cpu().numpy().astype(np.float16), covers


def _list_subcategory_channels(classes: np.ndarray, n_subcategories: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Return the channels of the sub-categories of `classes` (K,), and the number of channels of each class."""
    ends = np.cumsum(n_subcategories)
    maps_per_class = [int(n_subcategories[class_index]) for class_index in classes]
    channels = [np.arange(ends[class_index] - num_maps, ends[class_index])
                for class_index, num_maps in zip(classes, maps_per_class, strict=True)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *channels]), maps_per_class

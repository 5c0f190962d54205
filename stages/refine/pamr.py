"""Pixel-adaptive refinement: applies `kernels.pamr` or `kernels.pixel_adaptive` on a grid with the requested stride.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020); Ru et al., "Learning Affinity
from Attention" (CVPR 2022).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stages.kernels.pamr import pamr
from stages.kernels.pixel_adaptive import apply_par
from stages.kernels.resample import average_cells
from stages.refine.config import PamrConfig, ParConfig


@torch.inference_mode()
def refine_by_colours(image: Tensor, scores: Tensor,
                      config: PamrConfig | ParConfig) -> tuple[np.ndarray, tuple[int, int]]:
    """Refine CAMs by the method of `config`. Return (maps (L, h, w) float32 in [0, 1], the pixels that they cover).

    The maps are divided by their joint maximum. `image` is (H, W, 3) uint8, `scores` (L, H, W) in [0, 1]. With a stride
    s, the image and the scores are first averaged over squares of s x s pixels; squares cut by the border repeat the
    last row and column.
    """
    stride = config.grid_stride
    grid = [-(-length // stride) for length in scores.shape[1:]]
    colours = image.permute(2, 0, 1).float() / 255
    if stride > 1:
        colours, scores = _average_with_repeated_border(colours, stride), _average_with_repeated_border(scores, stride)
    scores = scores.to(colours.device)
    if isinstance(config, ParConfig):
        maps = apply_par(colours[None], scores[None], iterations=config.iterations, dilations=config.dilations,
                         colour_scale=config.colour_scale, position_weight=config.position_weight)[0]
    else:
        maps = pamr(colours, scores, config.dilations, config.iterations, config.softness)
    if len(maps):
        maps = maps / maps.max().clamp(min=1e-12)
    return maps.cpu().numpy(), (grid[0] * stride, grid[1] * stride)


def encode_maps(maps: np.ndarray, stride: int) -> np.ndarray:
    """Encode maps in [0, 1] for a shard: as 8 bits (255 = 1.0) at the size of the image, else as float16."""
    return np.round(maps * 255).clip(0, 255).astype(np.uint8) if stride == 1 else maps.astype(np.float16)


def _average_with_repeated_border(maps: Tensor, cell: int) -> Tensor:
    height, width = (-length % cell for length in maps.shape[1:])
    padded = np.pad(maps.cpu().numpy(), ((0, 0), (0, height), (0, width)), mode="edge")
    return torch.from_numpy(average_cells(padded, cell)).to(maps.device)

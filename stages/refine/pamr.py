"""Pixel-adaptive refinement of maps: `kernels.pamr` on the grid that is asked for.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stages.kernels.pamr import pamr
from stages.kernels.resample import cell_means
from stages.refine.config import PamrConfig


@torch.inference_mode()
def refined_maps(image: Tensor, rows: Tensor, config: PamrConfig) -> tuple[np.ndarray, tuple[int, int]]:
    """Return (maps (L, h, w) float32 in [0, 1], divided by their joint maximum; the pixels that they cover).

    `image` is (H, W, 3) uint8, `rows` (L, H, W) in [0, 1]. With a stride s, image and rows are averaged over squares
    of s x s pixels first, those beyond the border repeating its last row and column.
    """
    stride = config.grid_stride
    grid = [-(-length // stride) for length in rows.shape[1:]]
    picture = image.permute(2, 0, 1).float() / 255
    if stride > 1:
        picture, rows = _means(picture, stride), _means(rows, stride)
    maps = pamr(picture, rows.to(picture.device), config.dilations, config.iterations, config.softness)
    if len(maps):
        maps = maps / maps.max().clamp(min=1e-12)
    return maps.cpu().numpy(), (grid[0] * stride, grid[1] * stride)


def stored(maps: np.ndarray, stride: int) -> np.ndarray:
    """Return maps in [0, 1] as they are kept: of the size of the image in 8 bits (255 = 1.0), else float16."""
    return np.round(maps * 255).clip(0, 255).astype(np.uint8) if stride == 1 else maps.astype(np.float16)


def _means(maps: Tensor, cell: int) -> Tensor:
    height, width = (-length % cell for length in maps.shape[1:])
    padded = np.pad(maps.cpu().numpy(), ((0, 0), (0, height), (0, width)), mode="edge")
    return torch.from_numpy(cell_means(padded, cell)).to(maps.device)

"""Class-aware attention-based affinity: maps refined by the attention of the transformer that made them.

Lin et al., CLIP is Also an Efficient Segmenter (CVPR 2023), section 3.3, eq. 6 and 7.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

MASKS = ("result", "source", "none")
_EIGHT = np.ones((3, 3), dtype=bool)


def refine(maps: Tensor, boxes: Tensor | None, attention: Tensor, *, rounds: int = 3, steps: int = 2,
           mask: str = "result") -> Tensor:
    """Return the maps (B, K, N) after `steps` products with the affinity of `attention` (B, N, N).

    `boxes` (B, K, N) of 0 and 1 mask the result (eq. 7), the source (the released code) or nothing.
    """
    row, column = sinkhorn_scalings(attention, rounds)
    maps = maps * boxes if boxes is not None and mask == "source" else maps
    for _ in range(steps):
        maps = apply_affinity(maps, attention, row, column)
    return maps * boxes if boxes is not None and mask == "result" else maps


def sinkhorn_scalings(attention: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Return the vectors (B, N) r and c for which diag(r) W diag(c) is Sinkhorn's matrix after `rounds`.

    Each round divides by the sums of the columns, then by those of the rows; keeping the vectors instead of the
    matrix makes a round two matrix-vector products.
    """
    row = torch.ones_like(attention[..., 0])
    column = row
    for _ in range(rounds):
        column = 1 / (row.unsqueeze(-2) @ attention).squeeze(-2)
        row = 1 / (attention @ column.unsqueeze(-1)).squeeze(-1)
    return row, column


def apply_affinity(maps: Tensor, attention: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return A x for every map x of `maps` (B, K, N), A = (D + D^T) / 2 with D = diag(row) W diag(column)."""
    row, column = row.unsqueeze(-2), column.unsqueeze(-2)
    along = (maps * column) @ attention.transpose(-1, -2) * row
    across = (maps * row) @ attention * column
    return (along + across) / 2


def box_mask(cam: np.ndarray, threshold: float, *, as_released: bool = False) -> np.ndarray:
    """Return a mask (h, w), 1 within the boxes around the 8-connected parts of `cam` above threshold x maximum.

    `as_released` compares on the scale of 8-bit integers, and leaves the last row and column of the grid out of
    every box, as the released code does.
    """
    if as_released:
        levels = (cam * 255).astype(np.uint8)
        above = levels > int(threshold * levels.max(initial=0))
    else:
        above = cam > threshold * cam.max(initial=0)
    labelled, _ = ndimage.label(above, structure=_EIGHT)
    mask = np.zeros(cam.shape, dtype=np.uint8)
    last = (cam.shape[0] - 1, cam.shape[1] - 1)
    for rows, columns in ndimage.find_objects(labelled):
        bottom = min(rows.stop, last[0]) if as_released else rows.stop
        right = min(columns.stop, last[1]) if as_released else columns.stop
        mask[rows.start:bottom, columns.start:right] = 1
    return mask

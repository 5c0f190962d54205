"""Class-aware attention-based affinity: CAMs refined by the attention of the transformer that computed them.

Lin et al., CLIP is Also an Efficient Segmenter (CVPR 2023), section 3.3, eq. 6 and 7.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BOX_MASKS = ("result", "source", "none")
_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


def refine_with_attention(maps: Tensor, boxes: Tensor | None, attention: Tensor, *, rounds: int = 3, steps: int = 2,
                          mask: str = "result") -> Tensor:
    """Return the maps (B, K, N) after `steps` products with the affinity of `attention` (B, N, N).

    `boxes` (B, K, N) of 0 and 1 mask the "result" (eq. 7), the "source" (the released code) or, with "none", nothing.
    """
    row_scale, column_scale = compute_sinkhorn_scalings(attention, rounds)
    maps = maps * boxes if boxes is not None and mask == "source" else maps
    for _ in range(steps):
        maps = apply_affinity(maps, attention, row_scale, column_scale)
    return maps * boxes if boxes is not None and mask == "result" else maps


def compute_sinkhorn_scalings(attention: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Return the vectors r and c (B, N) for which diag(r) W diag(c) is Sinkhorn's matrix after `rounds`.

    Each round divides by the column sums, then by the row sums. Storing the vectors instead of the matrix makes a
    round two matrix-vector products.
    """
    row_scale = torch.ones_like(attention[..., 0])
    column_scale = row_scale
    for _ in range(rounds):
        column_scale = 1 / (row_scale.unsqueeze(-2) @ attention).squeeze(-2)
        row_scale = 1 / (attention @ column_scale.unsqueeze(-1)).squeeze(-1)
    return row_scale, column_scale


def apply_affinity(maps: Tensor, attention: Tensor, row_scale: Tensor, column_scale: Tensor) -> Tensor:
    """Return A x for every map x of `maps` (B, K, N), with A = (D + D^T) / 2 and D = diag(r) W diag(c)."""
    row_scale, column_scale = row_scale.unsqueeze(-2), column_scale.unsqueeze(-2)
    product = (maps * column_scale) @ attention.transpose(-1, -2) * row_scale
    transposed_product = (maps * row_scale) @ attention * column_scale
    return (product + transposed_product) / 2


def build_box_masks(maps: Tensor, grid: tuple[int, int], threshold: float, *, as_released: bool = False) -> Tensor:
    """Return the masks of `build_box_mask` of the maps (B, K, N) of a grid (h, w), as a tensor like them."""
    planes = maps.unflatten(-1, grid).float().cpu().numpy()
    masks = [[build_box_mask(cam, threshold, as_released=as_released) for cam in cams] for cams in planes]
    return torch.from_numpy(np.array(masks)).flatten(2).to(maps)


def build_box_mask(cam: np.ndarray, threshold: float, *, as_released: bool = False) -> np.ndarray:
    """Return a mask (h, w), 1 inside the bounding boxes of the 8-connected parts of `cam` above threshold x maximum.

    `as_released` compares 8-bit integers, and excludes the last row and column of the grid from every box, as the
    released code does.
    """
    # The other methods of `cams` are imported together with this one and would pay 0.2 s of CPU time for it.
    from scipy import ndimage

    if as_released:
        levels = (cam * 255).astype(np.uint8)
        is_above = levels > int(threshold * levels.max(initial=0))
    else:
        is_above = cam > threshold * cam.max(initial=0)
    labelled, _ = ndimage.label(is_above, structure=_EIGHT_CONNECTED)
    mask = np.zeros(cam.shape, dtype=np.uint8)
    last_row, last_column = cam.shape[0] - 1, cam.shape[1] - 1
    for rows, columns in ndimage.find_objects(labelled):
        bottom = min(rows.stop, last_row) if as_released else rows.stop
        right = min(columns.stop, last_column) if as_released else columns.stop
        mask[rows.start:bottom, columns.start:right] = 1
    return mask

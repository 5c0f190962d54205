"""Maps from the attention between class tokens and patches, and their refinement by that between patches.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (MCTformer, CVPR 2022), and
"MCTformer+" (TPAMI 2024). Where the papers and the released code differ, the code is followed: it sums the layers of
V1 and V2 and averages those of MCTformer+, and its affinity is the plain sum over all layers.

Shapes: L layers, B images, C classes, T tokens (C of the classes first, N = h * w patches last).
"""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("fused", "attention", "patch")
RANK_DECAY = 0.996
_EPSILON = 1e-8


def class_to_patch(attention: Tensor, n_classes: int, grid: tuple[int, int]) -> Tensor:
    """Return the mean over the layers (B, C, h, w) of what each class token attends to.

    `attention` (L, B, T, T) is the mean over the heads of the layers that count, rows sum to 1.
    """
    cells = grid[0] * grid[1]
    return attention[:, :, :n_classes, attention.shape[-1] - cells:].mean(0).unflatten(-1, grid)


def fuse(version: str, kind: str, attention: Tensor, patch: Tensor | None, layers: int) -> Tensor:
    """Return the class maps (B, C, h, w), 0 or more, of the class attention and the patch classifier's maps.

    `attention` is that of `class_to_patch` over `layers` layers, `patch` (B, C, h, w) before ReLU (None in V1).
    V1 has the attention alone: MCTformer eq. 3. V2: its product with the ReLU of `patch`, eq. 8. plus: the square
    root of that product. `kind` picks one of the two factors instead.
    """
    if kind == "patch" and patch is not None:
        return patch.relu()
    attended = attention if version == "plus" else attention * layers
    if kind == "attention" or patch is None:
        return attended
    product = attended * patch.relu()
    return _root(product) if version == "plus" else product


def _root(product: Tensor) -> Tensor:
    # The root's slope at 0 is infinite, and would make the gradient of a cell that ReLU cut not a number.
    alive = product > 0
    return torch.where(alive, product, torch.ones_like(product)).sqrt() * alive


def patch_affinity(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the sum over all layers (B, N, N) of the attention (L, B, T, T) between patches, not normalised again."""
    first = attention.shape[-1] - grid[0] * grid[1]
    return attention[:, :, first:, first:].sum(0)


def refine_maps(maps: Tensor, affinity: Tensor) -> Tensor:
    """Return the maps (B, C, h, w) in which each patch has the sum of all, weighed by its attention to them."""
    # Autocast would round the sums over hundreds of patches to half precision.
    with torch.autocast(maps.device.type, enabled=False):
        return (maps.flatten(2) @ affinity.transpose(1, 2)).unflatten(-1, maps.shape[-2:])


def unit_range(maps: Tensor) -> Tensor:
    """Return maps (..., h, w) stretched from 0 (their minimum) to 1 (their maximum); a constant one is 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low + _EPSILON)


def rank_pool(maps: Tensor, decay: float = RANK_DECAY) -> Tensor:
    """Return (B, C): the mean of the cells of maps (B, C, h, w), weighed by decay^rank, the largest first.

    The global weighted ranking pooling of MCTformer+ (Kolesnikov and Lampert, SEC, ECCV 2016, eq. 2); with decay 1 it
    is the mean, towards 0 the maximum.
    """
    ranked = maps.flatten(2).sort(dim=-1, descending=True).values
    weights = decay ** torch.arange(ranked.shape[-1], device=maps.device, dtype=ranked.dtype)
    return (ranked * weights).sum(-1) / weights.sum()

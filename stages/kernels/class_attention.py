"""Class maps from the attention of class tokens to patch tokens, and their refinement by patch attention.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (MCTformer, CVPR 2022), and
"MCTformer+" (TPAMI 2024). Where the papers and the released code differ, this follows the code: it sums the layers of
V1 and V2 and averages those of MCTformer+, and its affinity is the plain sum over all layers.

Shapes: L layers, B images, C classes, T tokens (C class tokens first, N = h * w patch tokens last).
"""

from __future__ import annotations

import torch
from torch import Tensor

MAP_KINDS = ("fused", "attention", "patch")
RANK_DECAY = 0.996
_EPSILON = 1e-8


def average_class_attention(attention: Tensor, num_classes: int, grid: tuple[int, int]) -> Tensor:
    """Return the attention (B, C, h, w) of each class token to the patches, averaged over the layers.

    `attention` (L, B, T, T) has the selected layers, averaged over their heads; its rows sum to 1.
    """
    num_patches = grid[0] * grid[1]
    return attention[:, :, :num_classes, attention.shape[-1] - num_patches:].mean(0).unflatten(-1, grid)


def fuse_class_maps(version: str, kind: str, attention: Tensor, patch: Tensor | None, num_layers: int) -> Tensor:
    """Fuse class attention and the patch classifier's maps into class maps (B, C, h, w), 0 or more.

    `attention` comes from `average_class_attention` over `num_layers` layers; `patch` (B, C, h, w) is before ReLU
    (None in V1). V1 uses the attention alone: MCTformer eq. 3. V2 uses its product with the ReLU of `patch`: eq. 8.
    "plus" uses the square root of that product. `kind` "attention" or "patch" returns one of the two factors instead.
    """
    if kind == "patch" and patch is not None:
        return patch.relu()
    class_attention = attention if version == "plus" else attention * num_layers
    if kind == "attention" or patch is None:
        return class_attention
    product = class_attention * patch.relu()
    return _compute_square_root(product) if version == "plus" else product


def _compute_square_root(product: Tensor) -> Tensor:
    # The derivative of the root at 0 is infinite, which would turn the gradient of cells zeroed by ReLU into NaN.
    is_positive = product > 0
    return torch.where(is_positive, product, torch.ones_like(product)).sqrt() * is_positive


def compute_patch_affinity(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the attention between patches (B, N, N), summed over all layers of `attention` (L, B, T, T).

    It is not normalised again.
    """
    first_patch = attention.shape[-1] - grid[0] * grid[1]
    return attention[:, :, first_patch:, first_patch:].sum(0)


def refine_maps(maps: Tensor, affinity: Tensor) -> Tensor:
    """Refine maps (B, C, h, w): replace each patch by the sum of all patches, weighted by its affinity to them."""
    # Autocast would round the sums over hundreds of patches to half precision.
    with torch.autocast(maps.device.type, enabled=False):
        return (maps.flatten(2) @ affinity.transpose(1, 2)).unflatten(-1, maps.shape[-2:])


def rescale_to_unit_range(maps: Tensor) -> Tensor:
    """Rescale maps (..., h, w) from 0 (their minimum) to 1 (their maximum); a constant map becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low + _EPSILON)


def rank_pool(maps: Tensor, decay: float = RANK_DECAY) -> Tensor:
    """Pool maps (B, C, h, w) to (B, C): the mean of the cells weighted by decay^rank, largest cell first.

    This is MCTformer+'s global weighted ranking pooling (Kolesnikov and Lampert, SEC, ECCV 2016, eq. 2). With decay 1
    it is the mean; as decay approaches 0 it becomes the maximum.
    """
    ranked = maps.flatten(2).sort(dim=-1, descending=True).values
    weights = decay ** torch.arange(ranked.shape[-1], device=maps.device, dtype=ranked.dtype)
    return (ranked * weights).sum(-1) / weights.sum()

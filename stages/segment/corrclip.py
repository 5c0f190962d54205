"""CorrCLIP: patches attend within regions that a self-supervised network has merged, and regions have class tokens.

Zhang et al., "CorrCLIP: Reconstructing Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation" (2024).
Differs from the released code, which `as_released` reproduces: id 0 means that a pixel has no region, where the code
takes the smallest id of a window for that, also if it is a region.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.region_scope import build_scope, compute_scoped_attention, merge_regions
from stages.kernels.vit_last_block import LastBlockWeights
from stages.nets.clip_region_tokens import run_with_region_tokens
from stages.nets.clip_vision import VisionTower
from stages.nets.self_similarity import SelfSimilarity
from stages.segment.config import CorrclipConfig


class PatchParts(NamedTuple):
    """The three features of the M cells that are added: (M, D) each, after the final norm."""

    main: Tensor
    spatial: Tensor
    semantic: Tensor


def embed_window(tower: VisionTower, network: SelfSimilarity, window: Tensor, regions: np.ndarray,
                 config: CorrclipConfig) -> Tensor:
    """Return unit embeddings (E, h, w) of a `window` (3, H, W) with `regions` (H, W), on the grid of `network`."""
    parts, grid = compute_parts(tower, network, window, regions, config)
    return combine_parts(tower.tail, parts, config).T.unflatten(-1, grid)


def compute_parts(tower: VisionTower, network: SelfSimilarity, window: Tensor, regions: np.ndarray,
                  config: CorrclipConfig) -> tuple[PatchParts, tuple[int, int]]:
    """Return the features of the cells, and the grid (h, w) of `network`."""
    features = network.compute_features(window[None])[0]
    grid = (int(features.shape[1]), int(features.shape[2]))
    unit = features.flatten(1).T
    on_grid = resize_ids(regions, grid)
    special = select_special(on_grid, config)
    merged = merge_regions(unit.cpu().numpy(), on_grid, special, config.merge_distance)
    similarity = unit @ unit.T
    scope = build_scope(similarity, torch.from_numpy(merged).to(unit.device), special)
    attention = compute_scoped_attention(similarity, scope, config.sharpness)
    clip_grid = (window.shape[1] // tower.cell, window.shape[2] // tower.cell)
    on_clip = resize_ids(merged, clip_grid)
    ids = np.unique(on_clip)
    visible = torch.from_numpy(on_clip.reshape(-1)[None] == ids[:, None]).to(unit.device)
    tokens = run_with_region_tokens(tower, window[None], visible)
    main, spatial = (_apply_attention(tower.tail, part, clip_grid, grid, attention)
                     for part in (tokens.last, tokens.middle))
    positions = np.searchsorted(ids, resize_ids(on_clip, grid)).reshape(-1)
    semantic = tokens.copies[torch.from_numpy(positions).to(unit.device)]
    return PatchParts(*(F.layer_norm(part, part.shape[-1:], *tower.tail.final_norm)
                        for part in (main, spatial, semantic))), grid


def combine_parts(weights: LastBlockWeights, parts: PatchParts, config: CorrclipConfig) -> Tensor:
    """Return the unit embeddings (M, E) of the cells."""
    mixed = parts.main + config.spatial_weight * parts.spatial + config.semantic_weight * parts.semantic
    return F.normalize(mixed @ weights.projection, dim=-1)


def select_special(regions: np.ndarray, config: CorrclipConfig) -> int | None:
    """Return the id of the pixels without a region; None if all have one. As released it is the smallest id."""
    smallest = int(regions.min())
    return smallest if config.as_released or smallest == 0 else None


def _apply_attention(weights: LastBlockWeights, tokens: Tensor, clip_grid: tuple[int, int], grid: tuple[int, int],
                     attention: Tensor) -> Tensor:
    """Return (M, D): the values of the last block at the cells of `grid`, averaged by attention (M, M)."""
    normed = F.layer_norm(tokens[1:], tokens.shape[-1:], *weights.first_norm)
    width = tokens.shape[-1]
    values = F.linear(normed, weights.qkv[0][2 * width:], weights.qkv[1][2 * width:])
    maps = values.T.unflatten(-1, clip_grid)[None]
    resized = F.interpolate(maps, grid, mode="bilinear", align_corners=False)[0].flatten(1).T
    return F.linear(attention @ resized, *weights.out_proj)


def resize_ids(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return ids (H, W) at `size`: those of the pixel at the upper left of each cell, as torch's "nearest" does."""
    rows, columns = (np.minimum(np.arange(new) * (old / new), old - 1).astype(np.int64)
                     for old, new in zip(ids.shape, size, strict=True))
    return ids[rows[:, None], columns]

"""Which patches may attend to each other: those of one region, as CorrCLIP's correlation does (Zhang et al., 2024).

Regions are merged if a self-supervised network finds them alike; patches without a region attend to whatever is more
similar to them than the average pair. Read as code; facts only.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

MERGED_IDS = 10_000  # added to the numbers of merged regions in the released code


def compute_region_distances(features: np.ndarray, regions: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the distances (R, R) of regions `ids` (R,): how much less similar they are than the most similar pair.

    `features` (M, D) are unit vectors of the M cells of `regions` (h, w). A region's feature is the mean of its cells,
    as a unit vector.
    """
    membership = (regions.reshape(-1)[None] == ids[:, None]).astype(np.float32)
    means = membership @ features / membership.sum(axis=1, keepdims=True)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    similarity = means @ means.T
    return similarity.max() - similarity


def group_close(distances: np.ndarray, limit: float) -> np.ndarray:
    """Return the group (R,) of each region, numbered by first member: chains of distances of at most `limit`.

    The same as DBSCAN where a single point is a cluster (`min_samples` 1), and as single linkage.
    """
    rows, columns = np.nonzero(distances <= limit)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=distances.shape)
    _, groups = connected_components(graph, directed=False)
    _, first = np.unique(groups, return_index=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[groups]


def merge_regions(features: np.ndarray, regions: np.ndarray, special: int | None, limit: float) -> np.ndarray:
    """Return `regions` (h, w) with regions that are alike joined under ids from 10,000 up; `special` stays apart.

    `features` (h w, D) are unit vectors. With less than two regions to join nothing changes.
    """
    ids = np.unique(regions)
    ids = ids[ids != special] if special is not None else ids
    if len(ids) < 2:
        return regions
    groups = group_close(compute_region_distances(features, regions, ids), limit) + MERGED_IDS
    merged = regions.copy()
    for region_id, group in zip(ids, groups, strict=True):
        merged[regions == region_id] = group
    return merged


def build_scope(similarity: Tensor, regions: Tensor, special: int | None) -> Tensor:
    """Return which cells may attend to which, (M, M) bool: those of one region.

    Pairs with a cell of the region `special`, whose cells have none, may if their similarity (M, M) is above the mean.
    """
    cells = regions.reshape(-1)
    scope = cells[:, None] == cells
    if special is None:
        return scope
    is_special = cells == special
    touches = is_special[:, None] | is_special
    return torch.where(touches, similarity > similarity.mean(), scope)


def compute_scoped_attention(similarity: Tensor, scope: Tensor, temperature: float) -> Tensor:
    """Return the attention (M, M): the softmax of `temperature` x similarity over the cells in scope.

    A cell without any attends to itself, where the released code returns NaN.
    """
    scores = (similarity * temperature).masked_fill(~scope, -torch.inf)
    alone = ~scope.any(dim=1)
    scores.diagonal()[alone] = 0.0
    return scores.softmax(dim=1)

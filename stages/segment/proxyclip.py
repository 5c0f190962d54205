"""ProxyCLIP: patches attend to patches that a self-supervised network (the proxy) finds similar.

Lan et al., "ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation" (ECCV 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.dense_last_block import AttentionHeads


def compute_context(heads: AttentionHeads, features: Tensor, beta: float, gamma: float) -> Tensor:
    """Return the context (B, h, M, d): values of the patches weighted by the proxy's attention.

    `features` (B, D', h', w') are those of the proxy, with M = h' x w' patches. If this grid differs from CLIP's, the
    values are resized to it.
    """
    weights = compute_proxy_attention(features, beta, gamma)
    value = heads.value[:, :, 1:]
    grid = (int(features.shape[2]), int(features.shape[3]))
    if grid != heads.grid:
        maps = value.transpose(-1, -2).flatten(0, 1).unflatten(-1, heads.grid)
        resized = F.interpolate(maps, grid, mode="bilinear", align_corners=False)
        value = resized.flatten(2).transpose(-1, -2).unflatten(0, value.shape[:2])
    return weights[:, None] @ value


def compute_proxy_attention(features: Tensor, beta: float, gamma: float, mean: Tensor | None = None) -> Tensor:
    """Return the attention (B, M, M): the softmax of gamma (s - beta mean(s)) over the values that are not negative.

    s are the cosine similarities. Their mean is taken over each image, so that a result does not depend on its batch;
    the released code takes it over the batch, which can be passed as `mean`. A row without such a value attends to its
    own patch.
    """
    unit = F.normalize(features.flatten(2), dim=1)
    cosine = unit.transpose(1, 2) @ unit
    mean = cosine.mean((1, 2), keepdim=True) if mean is None else mean
    scores = (cosine - mean * beta) * gamma
    scores = scores.masked_fill(scores < 0, -torch.inf)
    diagonal = torch.diagonal(scores, dim1=1, dim2=2)
    diagonal.masked_fill_(diagonal == -torch.inf, 0.0)
    return scores.softmax(dim=-1)

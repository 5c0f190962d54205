"""ProxyCLIP: patches attend to those that another network, trained without labels, finds alike.

Lan et al., "ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation" (ECCV 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.dense_tail import Heads


def context(heads: Heads, features: Tensor, beta: float, gamma: float) -> Tensor:
    """Return (B, h, M, d): values of the patches weighed by the proxy's attention, M = its h' x w' cells.

    `features` (B, D', h', w') are the proxy's; on a finer grid than CLIP's the values are resized to it.
    """
    weights = proxy_attention(features, beta, gamma)
    value = heads.value[:, :, 1:]
    grid = (int(features.shape[2]), int(features.shape[3]))
    if grid != heads.grid:
        maps = value.transpose(-1, -2).flatten(0, 1).unflatten(-1, heads.grid)
        resized = F.interpolate(maps, grid, mode="bilinear", align_corners=False)
        value = resized.flatten(2).transpose(-1, -2).unflatten(0, value.shape[:2])
    return weights[:, None] @ value


def proxy_attention(features: Tensor, beta: float, gamma: float, mean: Tensor | None = None) -> Tensor:
    """Return (B, M, M): the softmax of gamma (s - beta mean(s)) over what is not negative, s the cosines.

    The mean is each image's own, so that a result does not depend on its batch; the released code's is over the batch,
    which can be given. A row in which nothing is left attends to its own cell.
    """
    unit = F.normalize(features.flatten(2), dim=1)
    cosine = unit.transpose(1, 2) @ unit
    mean = cosine.mean((1, 2), keepdim=True) if mean is None else mean
    scores = (cosine - mean * beta) * gamma
    scores = scores.masked_fill(scores < 0, -torch.inf)
    own = torch.diagonal(scores, dim1=1, dim2=2)
    own.masked_fill_(own == -torch.inf, 0.0)
    return scores.softmax(dim=-1)

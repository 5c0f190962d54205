"""Two regularisers on what a classifier says and where: self-entropy and concentration.

Grandvalet and Bengio (NIPS 2004); Hung et al., "SCOPS" (CVPR 2019); both as in Mixup-CAM (Chang et al., BMVC 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

ENTROPIES = ("binary", "sum")
CONCENTRATIONS = ("scops", "paper")
_EPSILON = 1e-5


def self_entropy(logits: Tensor, form: str = "binary") -> Tensor:
    """Return the entropy of the predictions p = sigmoid(logits) (B, C).

    `binary`: of each class present or not, mean over classes and images (Mixup-CAM's code, but there on the targets,
    where it has no gradient). `sum`: -sum_c p log p, mean over images (the formula as printed).
    """
    logits = _wide(logits)
    p = logits.sigmoid()
    if form == "sum":
        return -(p * torch.nn.functional.logsigmoid(logits)).sum(1).mean()
    return -(p * (p + _EPSILON).log() + (1 - p) * (1 - p + _EPSILON).log()).mean()


def spread(maps: Tensor, form: str = "scops") -> Tensor:
    """Return (B, C): how far the response of each map (B, C, h, w) lies from its centre, in squared distance.

    `scops`: softmax over the classes of the maps after ReLU, plus 1e-3, in coordinates from -1 to 1. `paper`: the maps
    after ReLU, in cells; one that is 0 everywhere has no spread.
    """
    maps = _wide(maps).relu()
    if form == "scops":
        maps = maps.softmax(dim=1) + 1e-3
    height, width = maps.shape[-2:]
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype)[:, None]
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype)[None]
    if form == "scops":
        rows, columns = 2 * rows / height - 1, 2 * columns / width - 1
    total = maps.sum((-2, -1), keepdim=True)
    share = maps / torch.where(total > 0, total, torch.ones_like(total))
    down, across = ((share * place).sum((-2, -1), keepdim=True) for place in (rows, columns))
    return (((rows - down) ** 2 + (columns - across) ** 2) * share).sum((-2, -1))


def concentration(maps: Tensor, labels: Tensor, form: str = "scops") -> Tensor:
    """Return the spread of the maps of the classes present, `labels` (B, C) above 0.5, summed, divided by B."""
    return (spread(maps, form) * (labels > 0.5)).sum() / len(maps)


def _wide(values: Tensor) -> Tensor:
    """Return the values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))

"""Shift the text vectors of classes towards descriptions of objects (text semantic enrichment of ExCEL, CVPR 2025).

The published descriptions are 20 sentences a class by a language model, clustered to a bank of 112 (VOC) or 224 (COCO)
centres that all classes share.

Shapes: C classes, n centres, E embedding dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

KEPT_SHARE = 0.9


def shift_text(classes: Tensor, mode: str, centres: Tensor | None = None) -> Tensor:
    """Return the unit vectors `classes` (C, E), each plus its shift, as unit vectors.

    `mode` is "none"; "mean", which adds the mean of `centres` (n, E), or of the classes without them; or "bank", which
    adds a mean of the centres for each class, weighted by `weigh_centres`.
    """
    if mode == "none":
        return classes
    if mode == "bank" and centres is not None:
        return F.normalize(classes + weigh_centres(classes, centres) @ centres, dim=-1)
    return F.normalize(classes + (classes if centres is None else centres).mean(0), dim=-1)


def weigh_centres(classes: Tensor, centres: Tensor) -> Tensor:
    """Return the weights (C, n) of the centres (n, E) for each class: a softmax over all but the least similar tenth.

    Of ten centres or fewer, none is dropped; the released code drops all of them and divides by 0.
    """
    logits = classes @ centres.T
    num_dropped = int((1 - KEPT_SHARE) * len(centres))  # rounded as in the released code
    if num_dropped:
        dropped = logits.topk(num_dropped, dim=-1, largest=False).indices
        logits = logits.scatter(-1, dropped, -torch.inf)
    return logits.softmax(-1)

"""Softmax-GradCAM: the score of a class against its competitors, its gradient, and the map it gives.

Lin et al., CLIP is Also an Efficient Segmenter (CVPR 2023), section 3.1, eq. 1 to 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

TARGETS = ("log-odds", "probability", "logit")


def cotangents(embedding: Tensor, text: Tensor, targets: Tensor, scale: float,
               target: str = "log-odds") -> tuple[Tensor, Tensor]:
    """Return (gradients (K, E) of the K targets' scores by `embedding` (E,), softmax (L,)).

    `text` (L, E) are unit vectors of all that compete, `targets` (K,) positions among them; a logit is `scale`
    times the cosine. The score is the softmax's `probability` (eq. 3), the class's `log-odds`, or its `logit`
    (without softmax). Since grad p = p (1 - p) grad log-odds, the first two give one map once it is divided by its
    maximum; the log-odds' gradient is of order 1 where p's vanishes in half precision. Without a competitor the
    log-odds are the logit.
    """
    length = embedding.norm()
    unit = embedding / length
    logits = scale * (text @ unit)
    probability = logits.softmax(dim=0)
    direction = text[targets]
    if target != "logit" and len(text) > 1:
        others = logits.expand(len(targets), -1).clone()
        others.scatter_(1, targets[:, None], -torch.inf)
        direction = direction - others.softmax(dim=1) @ text
    if target == "probability":
        direction = direction * probability_slope(probability, targets)[:, None]
    direction = scale * direction
    return (direction - (direction @ unit)[:, None] * unit) / length, probability


def probability_slope(probability: Tensor, targets: Tensor) -> Tensor:
    """Return p (1 - p) of K targets, (K,): the derivative of their probability by their log-odds.

    `probability` (L,) is a softmax, `targets` (K,) positions in it. 1 - p is the sum of all others, which keeps its
    digits where p rounds to 1.
    """
    others = probability.expand(len(targets), -1).clone()
    others.scatter_(1, targets[:, None], 0)
    return probability[targets] * others.sum(1)


def weighted_maps(weights: Tensor, features: Tensor) -> Tensor:
    """Return ReLU(sum_d w_d A_d), (B, K, N), of channel `weights` (B, K, D) and `features` (B, N, D): eq. 2."""
    return torch.relu(weights @ features.transpose(-1, -2))


def unit_range(maps: Tensor) -> Tensor:
    """Return the maps (..., N) between 0 and 1: minus their minimum, divided by the maximum of that.

    A flat map that is above 0 becomes 1 everywhere: a single patch has no contrast, yet bears the class.
    """
    low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
    span = high - low
    flat = span <= 1e-6 * high
    return torch.where(flat, (high > 0).to(maps.dtype), (maps - low) / torch.where(flat, torch.ones_like(span), span))


def released_range(maps: Tensor) -> Tensor:
    """Return the maps (..., N) minus their minimum, divided by the maximum of that plus 1e-7, as the released code.

    The 1e-7 suppresses maps that are fainter than it, and leaves the others with a maximum of 0.9999999.
    """
    shifted = maps - maps.amin(-1, keepdim=True)
    return shifted / (1e-7 + shifted.amax(-1, keepdim=True))

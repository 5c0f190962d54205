"""Softmax-GradCAM: the score of a class against competing classes, its gradient, and the resulting map.

Lin et al., CLIP is Also an Efficient Segmenter (CVPR 2023), section 3.1, eq. 1 to 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

TARGETS = ("log-odds", "probability", "logit")


def compute_score_gradients(embedding: Tensor, text: Tensor, targets: Tensor, scale: float,
                            target: str = "log-odds") -> tuple[Tensor, Tensor]:
    """Return (gradients (K, E) of K target scores with respect to `embedding` (E,), softmax (L,)).

    `text` (L, E) are the unit vectors of all competing words, `targets` (K,) are positions among them; a logit is
    `scale` times the cosine. The score is the softmax's `probability` (eq. 3), the class's `log-odds`, or its `logit`
    (without softmax). Because grad p = p (1 - p) grad log-odds, the first two give the same map after division by its
    maximum; the gradient of the log-odds is of order 1 where that of p vanishes in half precision. Without a
    competitor the log-odds are the logit.
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
        direction = direction * compute_probability_derivative(probability, targets)[:, None]
    direction = scale * direction
    return (direction - (direction @ unit)[:, None] * unit) / length, probability


def compute_probability_derivative(probability: Tensor, targets: Tensor) -> Tensor:
    """Return p (1 - p) of K targets, (K,): the derivative of their probability with respect to their log-odds.

    `probability` (L,) is a softmax, `targets` (K,) are positions in it. 1 - p is computed as the sum of the other
    probabilities, which keeps its digits where p rounds to 1.
    """
    others = probability.expand(len(targets), -1).clone()
    others.scatter_(1, targets[:, None], 0)
    return probability[targets] * others.sum(1)


def combine_channels(weights: Tensor, features: Tensor) -> Tensor:
    """Return the CAMs ReLU(sum_d w_d A_d), (B, K, N), of `weights` (B, K, D) and `features` (B, N, D): eq. 2."""
    return torch.relu(weights @ features.transpose(-1, -2))


def rescale_to_unit_range(maps: Tensor) -> Tensor:
    """Rescale maps (..., N) to [0, 1]: subtract the minimum, then divide by the maximum.

    A constant map above 0 becomes 1 everywhere: an image of a single patch has no contrast, but shows the class.
    """
    low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
    span = high - low
    is_flat = span <= 1e-6 * high
    divisor = torch.where(is_flat, torch.ones_like(span), span)
    return torch.where(is_flat, (high > 0).to(maps.dtype), (maps - low) / divisor)


def rescale_as_released(maps: Tensor) -> Tensor:
    """Rescale maps (..., N) as the released code: subtract the minimum, then divide by the maximum + 1e-7.

    The 1e-7 suppresses maps whose maximum is smaller than it; the others end with a maximum of 0.9999999.
    """
    shifted = maps - maps.amin(-1, keepdim=True)
    return shifted / (1e-7 + shifted.amax(-1, keepdim=True))

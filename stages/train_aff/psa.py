"""The loss of AffinityNet (PSA, CVPR 2018, eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.kernels.pairs import pair_distances
from stages.train_aff.labels import pair_labels

_EPSILON = 1e-5


def affinity_loss(affinity: Tensor, background: Tensor, classes: Tensor, different: Tensor) -> Tensor:
    """Return the loss of affinities (B, P, h', w') in [0, 1] with the three masks of `pair_labels`.

    A quarter each for pairs of background and of one class, half for pairs of two labels, each the mean over its own
    pairs in the batch. 1e-5 inside the logarithms, and added to the counts, as in PSA's released code.
    """
    alike, unlike = -(affinity + _EPSILON).log(), -(1 + _EPSILON - affinity).log()
    shares = ((alike, background, 0.25), (alike, classes, 0.25), (unlike, different, 0.5))
    return torch.stack([weight * (cost * mask).sum() / (mask.sum(dtype=cost.dtype) + _EPSILON)
                        for cost, mask, weight in shares]).sum()


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Return {"loss"} of images (B, 3, H, W) and their labels (B, h, w)."""
    affinity = torch.exp(-pair_distances(net(batch["image"]).float(), config.radius))
    return {"loss": affinity_loss(affinity, *pair_labels(batch["label"], config.radius))}

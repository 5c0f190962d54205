"""What AffinityNet (PSA, CVPR 2018) learns from: labels, windows of images, and its loss (eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.data.augment import SegmentationView, cell_view
from stages.errors import UsageError
from stages.kernels.pairs import pair_distances
from stages.nets.affinity import AffinityNet
from stages.train_aff.config import PsaConfig
from stages.train_aff.labels import UNDECIDED, confident_areas, pair_labels, scores_at

NET = AffinityNet
MEASURE = None  # nothing of the trained net is measured on the images

_EPSILON = 1e-5


def label_settings(config: PsaConfig, net: AffinityNet) -> dict[str, Any]:
    """Return what decides the labels. Raises UsageError for two alphas that are exchanged."""
    if config.low_alpha > config.high_alpha:
        raise UsageError(f"--low-alpha {config.low_alpha:g} is above --high-alpha {config.high_alpha:g}",
                         "the low one is of the generous background, the high one of the sparing")
    return {"low_alpha": config.low_alpha, "high_alpha": config.high_alpha, "cell": net.stride}


def label_of(image: np.ndarray, maps: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """Return the label (h, w) of the cells of an image (H, W, 3) with maps (K, H, W)."""
    return confident_areas(*(scores_at(image, maps, settings[alpha], settings["cell"])
                             for alpha in ("low_alpha", "high_alpha")))


def view_of(config: PsaConfig) -> SegmentationView:
    """Return the settings of the views: PSA scales nothing."""
    return SegmentationView(**config.view, ignore=UNDECIDED)


def sample(image: np.ndarray, label: np.ndarray, cell: int, generator: np.random.Generator,
           view: SegmentationView) -> tuple[np.ndarray, np.ndarray]:
    """Return a window (3, S, S) of an image and the label (S / cell, S / cell) of its cells."""
    return cell_view(image, label, cell, generator, view)


def fast_parameters(net: AffinityNet) -> list[nn.Parameter]:
    """Return what learns faster: all that starts anew."""
    return list(net.head_parameters())


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

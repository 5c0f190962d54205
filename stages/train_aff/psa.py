"""Training labels, image crops and loss (eq. 4) of AffinityNet (PSA, CVPR 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.data.augment import SegmentationViewSettings, sample_cell_aligned_view
from stages.errors import UsageError
from stages.kernels.cell_pairs import compute_pair_distances
from stages.nets.affinity import AffinityNet
from stages.train_aff.config import PsaConfig
from stages.train_aff.labels import IGNORE_LABEL, Crf, build_pair_masks, compute_crf_scores, select_confident_labels

NET_CLASS = AffinityNet
FINISH_TRAINING = None  # no statistics of the trained network are measured on the images

_EPSILON = 1e-5


def select_label_settings(config: PsaConfig, net: AffinityNet) -> dict[str, Any]:
    """Return the settings that the labels depend on. Raises UsageError if the low alpha is the higher one."""
    if config.low_alpha > config.high_alpha:
        raise UsageError(f"--low-alpha {config.low_alpha:g} is greater than --high-alpha {config.high_alpha:g}",
                         "Swap them: the lower alpha selects class pixels, the higher one background pixels")
    return {"low_alpha": config.low_alpha, "high_alpha": config.high_alpha, "cell": net.stride}


def compute_label(image: np.ndarray, maps: np.ndarray, settings: Mapping[str, Any], crf: Crf) -> np.ndarray:
    """Compute the cell labels (h, w) of an image (H, W, 3) with CAMs (K, H, W)."""
    return select_confident_labels(*(compute_crf_scores(image, maps, settings[alpha], settings["cell"], crf)
                                     for alpha in ("low_alpha", "high_alpha")))


def build_view_settings(config: PsaConfig) -> SegmentationViewSettings:
    """Build the settings of the random views; PSA does not rescale images."""
    return SegmentationViewSettings(**config.view, ignore_index=IGNORE_LABEL)


def draw_sample(image: np.ndarray, label: np.ndarray, cell: int, generator: np.random.Generator,
                view: SegmentationViewSettings) -> tuple[np.ndarray, np.ndarray]:
    """Draw a crop (3, S, S) of an image, and the labels (S / cell, S / cell) of its cells."""
    return sample_cell_aligned_view(image, label, cell, generator, view)


def select_fast_parameters(net: AffinityNet) -> list[nn.Parameter]:
    """Return the parameters with the higher learning rate: those of the newly initialised layers."""
    return list(net.head_parameters())


def compute_affinity_loss(affinity: Tensor, background: Tensor, classes: Tensor, different: Tensor) -> Tensor:
    """Return the loss of affinities (B, P, h', w') in [0, 1] with the three masks of `build_pair_masks`.

    Background pairs and same-class pairs have weight 1/4 each, pairs of different labels 1/2; each term is the mean
    over its own pairs in the batch. 1e-5 is added inside the logarithms and to the counts, as in PSA's released code.
    """
    similar_cost, different_cost = -(affinity + _EPSILON).log(), -(1 + _EPSILON - affinity).log()
    terms = ((similar_cost, background, 0.25), (similar_cost, classes, 0.25), (different_cost, different, 0.5))
    return torch.stack([weight * (cost * mask).sum() / (mask.sum(dtype=cost.dtype) + _EPSILON)
                        for cost, mask, weight in terms]).sum()


def compute_loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Compute {"loss"} of images (B, 3, H, W) and their labels (B, h, w)."""
    affinity = torch.exp(-compute_pair_distances(net(batch["image"]).float(), config.radius))
    return {"loss": compute_affinity_loss(affinity, *build_pair_masks(batch["label"], config.radius))}

"""What IRNet (IRN, CVPR 2019) learns from: labels, views of images, and its loss (section 4).

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.data.augment import SegmentationView, segmentation_view
from stages.errors import UsageError
from stages.kernels.pairs import pair_differences, pair_offsets
from stages.kernels.paths import path_affinities
from stages.nets.irn import IRNet
from stages.train_aff.config import IrnConfig
from stages.train_aff.labels import UNDECIDED, agreed_areas, label_at, pair_labels
from stages.train_aff.psa import affinity_loss

NET = IRNet
_EPSILON = 1e-5


def label_settings(config: IrnConfig, net: IRNet) -> dict[str, Any]:
    """Return what decides the labels. Raises UsageError for thresholds that leave no place to be undecided."""
    if config.background_threshold > config.class_threshold:
        raise UsageError(f"--background-threshold {config.background_threshold} is above --class-threshold "
                         f"{config.class_threshold}", "give a lower one")
    return {name: getattr(config, name) for name in ("class_threshold", "background_threshold", "label_confidence")}


def label_of(image: np.ndarray, maps: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """Return the label (H, W) of the pixels of an image (H, W, 3) with maps (K, H, W)."""
    return agreed_areas(*(label_at(image, maps, settings[threshold], settings["label_confidence"])
                          for threshold in ("class_threshold", "background_threshold")))


def view_of(config: IrnConfig) -> SegmentationView:
    """Return the settings of the views."""
    return SegmentationView(**config.view, scale=config.scale_range, ignore=UNDECIDED)


def sample(image: np.ndarray, label: np.ndarray, cell: int, generator: np.random.Generator,
           view: SegmentationView) -> tuple[np.ndarray, np.ndarray]:
    """Return a view (3, S, S) of an image and the label (S / cell, S / cell): that of the middle of each cell."""
    seen, mask = segmentation_view(image, label, generator, view)
    return seen, np.ascontiguousarray(mask[cell // 2::cell, cell // 2::cell])


def fast_parameters(net: IRNet) -> list[nn.Parameter]:
    """Return what learns faster: the branch of displacements."""
    return list(net.fast_parameters())


def displacement_losses(displacement: Tensor, radius: int, background: Tensor,
                        classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses of displacements (B, 2, h, w) on pairs of one class and on pairs of background.

    Cells of one class close to each other are taken to be of one object: their displacements should differ by how far
    they are apart. Those of the background should be equal. Masks are those of `pair_labels`; each loss is the mean
    over its pairs in the batch and over rows and columns, 1e-5 added to the counts (IRN's released code).
    """
    difference = pair_differences(displacement, radius)
    apart = torch.from_numpy(pair_offsets(radius).T.copy()).to(difference)[None, :, :, None, None]
    return _mean_over((difference - apart).abs(), classes), _mean_over(difference.abs(), background)


def _mean_over(cost: Tensor, mask: Tensor) -> Tensor:
    return (cost * mask[:, None]).sum() / (2 * mask.sum(dtype=cost.dtype) + _EPSILON)


def inter_pixel_loss(boundary: Tensor, displacement: Tensor, label: Tensor, radius: int) -> dict[str, Tensor]:
    """Return {"loss", "affinity", "displacement"} of boundaries (B, h, w) in [0, 1] and displacements (B, 2, h, w).

    `label` is (B, h, w) uint8. The affinities' loss is PSA's; the displacements' the mean of the two, as in IRN's
    released code.
    """
    background, classes, different = pair_labels(label, radius)
    alike = affinity_loss(path_affinities(boundary, radius), background, classes, different)
    moved = torch.stack(displacement_losses(displacement, radius, background, classes)).mean()
    return {"loss": alike + moved, "affinity": alike.detach(), "displacement": moved.detach()}


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: IrnConfig) -> dict[str, Tensor]:
    """Return the losses of images (B, 3, H, W) and their labels (B, h, w)."""
    boundary, displacement = net(batch["image"])
    return inter_pixel_loss(boundary.float().sigmoid(), displacement.float(), batch["label"], config.radius)


@torch.no_grad()
def measure_mean_displacement(net: IRNet, images: Iterable[Tensor]) -> None:
    """Set what the net takes off its displacements: their mean over `images`, each (3, H, W).

    The losses see differences alone, so what is common to all cells is no displacement (IRN's released code, there
    over the images with zeros up to 512 x 512; here without).
    """
    net.eval()
    net.mean_displacement.zero_()
    total, count = torch.zeros(2, dtype=torch.float64), 0
    for image in images:
        _, displacement = net(image[None].to(net.mean_displacement.device))
        total += displacement.double().mean((0, 2, 3)).cpu()
        count += 1
    net.mean_displacement.copy_(total / max(count, 1))


MEASURE = measure_mean_displacement

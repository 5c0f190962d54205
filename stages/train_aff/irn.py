"""Training labels, image views and loss (section 4) of IRNet (IRN, CVPR 2019).

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.data.augment import SegmentationViewSettings, sample_segmentation_view
from stages.errors import UsageError
from stages.kernels.boundary_paths import compute_path_affinities
from stages.kernels.cell_pairs import compute_pair_differences, compute_pair_offsets
from stages.nets.irn import IRNet
from stages.train_aff.config import IrnConfig
from stages.train_aff.labels import IGNORE_LABEL, Crf, build_pair_masks, compute_crf_label, merge_agreeing_labels
from stages.train_aff.psa import compute_affinity_loss

NET_CLASS = IRNet
_EPSILON = 1e-5


def select_label_settings(config: IrnConfig, net: IRNet) -> dict[str, Any]:
    """Return the settings that the labels depend on. Raises UsageError if the thresholds are swapped."""
    if config.background_threshold > config.class_threshold:
        raise UsageError(f"--background-threshold {config.background_threshold} is greater than --class-threshold "
                         f"{config.class_threshold}", "Use a lower --background-threshold")
    return {name: getattr(config, name) for name in ("class_threshold", "background_threshold", "label_confidence")}


def compute_label(image: np.ndarray, maps: np.ndarray, settings: Mapping[str, Any], crf: Crf) -> np.ndarray:
    """Compute the pixel labels (H, W) of an image (H, W, 3) with CAMs (K, H, W)."""
    confidence = settings["label_confidence"]
    return merge_agreeing_labels(*(compute_crf_label(image, maps, settings[threshold], confidence, crf)
                                   for threshold in ("class_threshold", "background_threshold")))


def build_view_settings(config: IrnConfig) -> SegmentationViewSettings:
    """Build the settings of the random views."""
    return SegmentationViewSettings(**config.view, scale=config.scale_range, ignore_index=IGNORE_LABEL)


def draw_sample(image: np.ndarray, label: np.ndarray, cell: int, generator: np.random.Generator,
                view: SegmentationViewSettings) -> tuple[np.ndarray, np.ndarray]:
    """Draw a view (3, S, S) of an image, and the labels (S / cell, S / cell) at the centres of its cells."""
    view_image, mask = sample_segmentation_view(image, label, generator, view)
    return view_image, np.ascontiguousarray(mask[cell // 2::cell, cell // 2::cell])


def select_fast_parameters(net: IRNet) -> list[nn.Parameter]:
    """Return the parameters with the higher learning rate: those of the displacement branch."""
    return list(net.fast_parameters())


def compute_displacement_losses(displacement: Tensor, radius: int, background: Tensor,
                                classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses of displacements (B, 2, h, w) on pairs of the same class and on pairs of background.

    Nearby cells of the same class are assumed to belong to one object: their displacements should differ by the offset
    between them. Displacements of background cells should be equal. The masks come from `build_pair_masks`; each loss
    is the mean over its pairs in the batch and over rows and columns, with 1e-5 added to the counts (IRN's released
    code).
    """
    difference = compute_pair_differences(displacement, radius)
    offsets = torch.from_numpy(compute_pair_offsets(radius).T.copy()).to(difference)[None, :, :, None, None]
    return _average_masked((difference - offsets).abs(), classes), _average_masked(difference.abs(), background)


def _average_masked(cost: Tensor, mask: Tensor) -> Tensor:
    return (cost * mask[:, None]).sum() / (2 * mask.sum(dtype=cost.dtype) + _EPSILON)


def compute_inter_pixel_loss(boundary: Tensor, displacement: Tensor, label: Tensor, radius: int) -> dict[str, Tensor]:
    """Return {"loss", "affinity", "displacement"} of boundaries (B, h, w) in [0, 1] and displacements (B, 2, h, w).

    `label` is (B, h, w) uint8. The affinity loss is PSA's; the displacement loss is the mean of the two in
    `compute_displacement_losses`, as in IRN's released code.
    """
    background, classes, different = build_pair_masks(label, radius)
    affinity_loss = compute_affinity_loss(compute_path_affinities(boundary, radius), background, classes, different)
    displacement_loss = torch.stack(compute_displacement_losses(displacement, radius, background, classes)).mean()
    return {"loss": affinity_loss + displacement_loss, "affinity": affinity_loss.detach(),
            "displacement": displacement_loss.detach()}


def compute_loss(net: nn.Module, batch: Mapping[str, Tensor], config: IrnConfig) -> dict[str, Tensor]:
    """Compute the losses of images (B, 3, H, W) and their labels (B, h, w)."""
    boundary, displacement = net(batch["image"])
    return compute_inter_pixel_loss(boundary.float().sigmoid(), displacement.float(), batch["label"], config.radius)


@torch.no_grad()
def measure_mean_displacement(net: IRNet, images: Iterable[Tensor]) -> None:
    """Measure the mean displacement over `images`, each (3, H, W); the network subtracts it from its displacements.

    The losses depend only on differences, so an offset common to all cells carries no information (IRN's released code,
    which pads the images with zeros to 512 x 512; here they are not padded).
    """
    net.eval()
    net.mean_displacement.zero_()
    total, num_images = torch.zeros(2, dtype=torch.float64), 0
    for image in images:
        _, displacement = net(image[None].to(net.mean_displacement.device))
        total += displacement.double().mean((0, 2, 3)).cpu()
        num_images += 1
    net.mean_displacement.copy_(total / max(num_images, 1))


FINISH_TRAINING = measure_mean_displacement

"""Compute the losses of a segmentation network on true or pseudo masks."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, mask: Tensor, *, ignore_index: int) -> Tensor:
    """Return the mean cross entropy of logits (B, C+1, H, W) over the pixels of `mask` (B, H, W) not ignored."""
    num_pixels = (mask != ignore_index).sum().clamp(min=1)
    return F.cross_entropy(logits, mask, ignore_index=ignore_index, reduction="sum") / num_pixels


def balanced_cross_entropy(logits: Tensor, mask: Tensor, *, ignore_index: int) -> Tensor:
    """Return half the mean cross entropy over background pixels plus half the mean over the pixels of classes.

    It is the balanced seed loss of DSRG (Huang et al., CVPR 2018), which CLIP-ES uses on COCO, with each half divided
    by its own number of pixels. In a batch without one of the two kinds of pixel, only the other half is left.
    """
    losses = F.cross_entropy(logits, mask, ignore_index=ignore_index, reduction="none")
    is_background, is_class = mask == 0, (mask != 0) & (mask != ignore_index)
    means = [losses[selected].mean() for selected in (is_background, is_class) if bool(selected.any())]
    return sum(means) / 2 if means else losses.sum() * 0


LOSSES = {"ce": cross_entropy, "balanced": balanced_cross_entropy, "confidence": cross_entropy,
          "balanced-confidence": balanced_cross_entropy}


def ignore_low_confidence(mask: np.ndarray, confidence: np.ndarray, mu: float, ignore_index: int) -> np.ndarray:
    """Return `mask` (H, W) with `ignore_index` where `confidence` (H, W) uint8, 255 = 1.0, is below `mu`.

    These pixels have no loss: the confidence-guided loss (CLIP-ES eq. 9). The equation leaves the divisor open; the
    losses here take the mean over the other pixels.
    """
    confident_mask = mask.copy()
    confident_mask[confidence < np.float64(mu) * 255] = ignore_index
    return confident_mask


def resize_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Resize logits (B, C+1, h, w) bilinearly to the size of `mask`."""
    return F.interpolate(logits.float(), size=mask.shape[-2:], mode="bilinear", align_corners=False)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `mask` (B, H, W) to `size` by nearest neighbour, as DeepLab-v2 has its loss at the size of the logits."""
    return F.interpolate(mask[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
